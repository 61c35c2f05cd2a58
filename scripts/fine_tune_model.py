r"""Train a pruned or expanded checkpoint; new heads learn faster, pruned ones stay as they are.

python scripts/fine_tune_model.py --model_path runs/expanded.pth --new_head_lr_multiplier 3 --max_steps 200 \
    --output_path runs/tuned.pth
"""

from __future__ import annotations

from plasticity_env.agents.commands.fine_tune_command import COMMAND

if __name__ == "__main__":
    COMMAND.run()
