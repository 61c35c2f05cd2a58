"""``plasticity leaderboard``: play every player on every model, share and draw of calibration text."""

from __future__ import annotations

from plasticity_env.agents.commands.command import Command
from plasticity_env.agents.leaderboard.leaderboard_config import LeaderboardConfig


def main(config: LeaderboardConfig) -> None:
    """Play the cells that are missing and print the table of all that the file holds."""
    from plasticity_env.agents.leaderboard.board_run import leaderboard

    print(leaderboard(config))


COMMAND = Command("leaderboard", LeaderboardConfig, main)
