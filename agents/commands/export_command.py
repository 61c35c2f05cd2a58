"""``plasticity export``: write a pruned model as files that other programs can load."""

from __future__ import annotations

from plasticity_env.agents.commands.command import Command
from plasticity_env.agents.export_config import ExportConfig


def main(config: ExportConfig) -> None:
    """Prune a model, or take a checkpoint of a pruned one, and write it: masked, uniform or compact."""
    from plasticity_env.agents.exporting import export

    folder, said = export(config)
    print("\n".join(said))
    print(f"model: {folder}")


COMMAND = Command("export", ExportConfig, main)
