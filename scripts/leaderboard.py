"""Leaderboard: every player on every model, share and draw of calibration text; resumable.

python scripts/leaderboard.py --models bard-neox-5x6 --players fisher@1,fisher@4,residual_fisher@4 --shares 0.1,0.3,0.5
"""

from __future__ import annotations

from plasticity_env.agents.leaderboard.board_run import LeaderboardConfig, leaderboard
from plasticity_env.common import cli


def main(config: LeaderboardConfig) -> None:
    """Play the cells that are missing and print the table of all that the file holds."""
    print(leaderboard(config))


if __name__ == "__main__":
    cli.run(LeaderboardConfig, main)
