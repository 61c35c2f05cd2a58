r"""Grow new heads in a checkpoint where heads were pruned.

python scripts/expand_heads.py --model_path runs/pruned.pth --growth_percentage 0.1 --warmup_steps 50 \
    --output_path runs/expanded.pth
"""

from __future__ import annotations

from plasticity_env.agents.commands.grow_command import COMMAND

if __name__ == "__main__":
    COMMAND.run()
