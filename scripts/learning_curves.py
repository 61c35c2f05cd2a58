"""Learning curves of every agent at equal numbers of environment steps, three seeds, in one figure.

python scripts/learning_curves.py --agents ppo,sb3_ppo,es --total_timesteps 20000 --output_dir runs/learning_curves
"""

from __future__ import annotations

from plasticity_env.agents.commands.curves_command import COMMAND

if __name__ == "__main__":
    COMMAND.run()
