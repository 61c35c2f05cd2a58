"""``plasticity grid``: run a grid of pruning levels, growth percentages and growth strategies."""

from __future__ import annotations

from plasticity_env.agents.commands.command import Command
from plasticity_env.agents.cycle_cli.grid_config import PICTURE, QUICK, GridConfig


def main(config: GridConfig) -> None:
    """Measure what bringing heads back is worth, against the same training without it and against the control arm."""
    from plasticity_env.agents.cycle_cli.grid_folder import run_command
    from plasticity_env.agents.rllib.ray_tasks import mapper

    print(run_command(config, mapper(config.ray_address, config.workers, config.device)))
    if config.save_visualizations:
        print(f"\nheat map: {config.output_dir / PICTURE}")


COMMAND = Command("grid", GridConfig, main, QUICK)
