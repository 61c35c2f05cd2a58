r"""Grow new heads in a checkpoint where heads were pruned.

python scripts/expand_heads.py --model_path runs/pruned.pth --growth_percentage 0.1 --warmup_steps 50 \
    --output_path runs/expanded.pth
"""

from __future__ import annotations

from plasticity_env.common import cli
from plasticity_env.steps.expanding import ExpandConfig, expand_heads


def main(config: ExpandConfig) -> None:
    """Grow new heads in a checkpoint where heads were pruned."""
    path, said = expand_heads(config)
    print("\n".join(said))
    print(f"checkpoint: {path}")


if __name__ == "__main__":
    cli.run(ExpandConfig, main)
