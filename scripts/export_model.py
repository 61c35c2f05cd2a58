"""Write a pruned model as files that others can load.

python scripts/export_model.py --model_name bard-llama-4x8 --pruning_level 0.25 --format uniform --output_path runs/small
"""

from __future__ import annotations

from plasticity_env.agents.exporting import ExportConfig, export
from plasticity_env.common import cli


def main(config: ExportConfig) -> None:
    """Prune a model, or take a checkpoint of a pruned one, and write it: masked, uniform or compact."""
    folder, said = export(config)
    print("\n".join(said))
    print(f"model: {folder}")


if __name__ == "__main__":
    cli.run(ExportConfig, main)
