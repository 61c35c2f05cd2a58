r"""Prune a model's heads and write it as a checkpoint.

python scripts/prune_heads.py --model_name bard-gpt2-4x4 --pruning_level 0.3 --strategy fisher \
    --output_path runs/pruned.pth
"""

from __future__ import annotations

from plasticity_env.agents.commands.prune_command import COMMAND

if __name__ == "__main__":
    COMMAND.run()
