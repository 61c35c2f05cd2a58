"""``plasticity grow``: grow new heads where heads were pruned."""

from __future__ import annotations

from plasticity_env.agents.commands.command import Command
from plasticity_env.steps.step_arguments import ExpandConfig


def main(config: ExpandConfig) -> None:
    """Grow new heads in a checkpoint where heads were pruned."""
    from plasticity_env.steps.expanding import expand_heads

    path, said = expand_heads(config)
    print("\n".join(said))
    print(f"checkpoint: {path}")


COMMAND = Command("grow", ExpandConfig, main)
