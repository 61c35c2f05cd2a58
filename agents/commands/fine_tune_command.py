"""``plasticity fine-tune``: train a pruned or grown checkpoint further."""

from __future__ import annotations

from plasticity_env.agents.commands.command import Command
from plasticity_env.steps.step_arguments import FineTuneConfig


def main(config: FineTuneConfig) -> None:
    """Train a pruned or expanded checkpoint; new heads learn faster, pruned ones stay as they are."""
    from plasticity_env.steps.fine_tuning import fine_tune

    path, said = fine_tune(config)
    print("\n".join(said))
    print(f"checkpoint: {path}")


COMMAND = Command("fine-tune", FineTuneConfig, main)
