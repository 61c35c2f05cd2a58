"""Make a W&B sweep from its file and run some of its trainings: `wandb sweep` and `wandb agent` in one.

python scripts/sweep.py --file scripts/configs/sweep.yaml --count 10
"""

from __future__ import annotations

from plasticity_env.agents.commands.sweep_command import COMMAND

if __name__ == "__main__":
    COMMAND.run()
