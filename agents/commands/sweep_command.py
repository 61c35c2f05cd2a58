"""``plasticity sweep``: run trainings of a W&B sweep."""

from __future__ import annotations

from plasticity_env.agents.commands.command import Command
from plasticity_env.agents.sweeping import SweepConfig


def main(config: SweepConfig) -> None:
    """Make a W&B sweep (or join one with --sweep_id) and run its trainings on this machine."""
    from plasticity_env.agents.sweeping import sweep

    name = sweep(config)
    print(f"sweep: {name}; join it elsewhere with plasticity sweep --sweep_id {name}")


COMMAND = Command("sweep", SweepConfig, main)
