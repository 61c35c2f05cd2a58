"""``plasticity demo``: train a controller and compare it with the rules in one go."""

from __future__ import annotations

from plasticity_env.agents.commands.command import Command
from plasticity_env.agents.evaluation.demo_config import DemoConfig


def main(config: DemoConfig) -> None:
    """Train a controller, compare it with the rules on text that none of them saw, and write dashboard.html."""
    from plasticity_env.agents.evaluation.demo import demo

    demo(config)


COMMAND = Command("demo", DemoConfig, main)
