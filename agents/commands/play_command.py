"""``plasticity play``: watch a controller at work for one episode."""

from __future__ import annotations

from plasticity_env.agents.commands.command import Command
from plasticity_env.agents.evaluation.play_config import PlayConfig


def main(config: PlayConfig) -> None:
    """Play one episode and print every step, then the test perplexity before and after."""
    from plasticity_env.agents.evaluation.play import play

    play(config)


COMMAND = Command("play", PlayConfig, main)
