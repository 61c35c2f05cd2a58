r"""Train a pruned or expanded checkpoint; new heads learn faster, pruned ones stay as they are.

python scripts/fine_tune_model.py --model_path runs/expanded.pth --new_head_lr_multiplier 3 --max_steps 200 \
    --output_path runs/tuned.pth
"""

from __future__ import annotations

from plasticity_env.common import cli
from plasticity_env.steps.fine_tuning import FineTuneConfig, fine_tune


def main(config: FineTuneConfig) -> None:
    """Train a pruned or expanded checkpoint; new heads learn faster, pruned ones stay as they are."""
    path, said = fine_tune(config)
    print("\n".join(said))
    print(f"checkpoint: {path}")


if __name__ == "__main__":
    cli.run(FineTuneConfig, main)
