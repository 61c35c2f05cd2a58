r"""Prune a model's heads and write it as a checkpoint.

python scripts/prune_heads.py --model_name bard-gpt2-4x4 --pruning_level 0.3 --strategy fisher \
    --output_path runs/pruned.pth
"""

from __future__ import annotations

from plasticity_env.common import cli
from plasticity_env.steps.file_pruning import PruneConfig, prune_heads


def main(config: PruneConfig) -> None:
    """Prune a model's heads and write it as a checkpoint."""
    path, said = prune_heads(config)
    print("\n".join(said))
    print(f"checkpoint: {path}")


if __name__ == "__main__":
    cli.run(PruneConfig, main)
