"""The grid: pruning levels x growth percentages x growth strategies, each cell with a control arm at equal training.

python scripts/neural_plasticity_experiment.py --model_name bard-gpt2-4x4 --seeds 3 --save_visualizations
"""

from __future__ import annotations

from plasticity_env.agents.cycle_cli.grid_command import PICTURE, QUICK, GridConfig, run_command
from plasticity_env.agents.rllib.ray_tasks import mapper
from plasticity_env.common import cli


def main(config: GridConfig) -> None:
    """Measure what bringing heads back is worth, against the same training without it and against the control arm."""
    print(run_command(config, mapper(config.ray_address, config.workers, config.device)))
    if config.save_visualizations:
        print(f"\nheat map: {config.output_dir / PICTURE}")


if __name__ == "__main__":
    cli.run(GridConfig, main, default=cli.quick_defaults(GridConfig(), QUICK))
