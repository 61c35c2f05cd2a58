"""The grid: pruning levels x growth percentages x growth strategies, each cell with a control arm at equal training.

python scripts/neural_plasticity_experiment.py --model_name bard-gpt2-4x4 --seeds 3 --save_visualizations
"""

from __future__ import annotations

from plasticity_env.agents.commands.grid_command import COMMAND

if __name__ == "__main__":
    COMMAND.run()
