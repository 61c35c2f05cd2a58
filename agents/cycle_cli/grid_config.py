"""The arguments of a grid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from plasticity_env.common import cli
from plasticity_env.common.arguments import check_counts, flags
from plasticity_env.common.errors import InputError
from plasticity_env.cycle.grid.grid_plan import GROWTHS, GridArm, GridSetting, plan
from plasticity_env.steps.step_arguments import with_text

CELLS, TABLE, CONFIG, PICTURE = "cells.jsonl", "table.md", "config.json", "visualizations/recovery.png"
QUICK = {
    "model_name": "bard-gpt2-4x4",
    "pruning_levels": "0.3",
    "growth_percentages": "0.1,0.2",
    "growth_strategies": "none,gradient_sensitivity,revive",
    "warmup_steps": "2",
    "training_steps": 4,
    "test_blocks": 8,
}


@dataclass(frozen=True)
class GridConfig:
    """Arguments of a grid. Lists are separated by commas; the grid is their product."""

    setting: Annotated[GridSetting, flags(GridSetting)] = GridSetting(model_name="distilgpt2", dataset="")
    """what all cells share; without a data set shakespeare for an embedded model and wikitext for any other"""
    pruning_levels: str = "0.1,0.3,0.5"
    """shares of all heads to prune"""
    growth_percentages: str = "0.05,0.1,0.2"
    """shares of all heads that come back; more than a level prunes is left out"""
    growth_strategies: str = ",".join(GROWTHS)
    """what comes back: none, gradient_sensitivity, entropy_gap, balanced, random, or revive (with the saved weights)"""
    save_visualizations: bool = False
    """draw the heat map of recovery as well"""
    repairs: str = "none"
    """repairs after pruning, before anything trains: none, least_squares, ..."""
    warmup_steps: str = "30"
    """training steps in which the gates of grown heads open; 0 opens them at once"""
    new_head_lr_multipliers: str = "1"
    """learning rates of heads that came back, in multiples of the others'"""
    cycles: str = "1"
    """numbers of cycles of pruning, bringing back and training, with the same training steps in all"""
    same_size: bool = True
    """also prune, once, only as many heads as are missing after growth, and train that model in the same way"""
    seeds: int = 1
    """runs of each cell"""
    device: str = "auto"
    """device to run on: auto, cpu, cuda, ..."""
    ray_address: str | None = None
    """run cells as Ray tasks: local (processes of this machine), auto (the cluster that this machine belongs to) or HOST:PORT"""
    workers: int = 1
    """cells at work at once, with --ray_address"""
    output_dir: Path = Path("runs/neural_plasticity/grid")
    """cells.jsonl, table.md, visualizations/; a second run continues where the first stopped, and adds its cells"""
    quick_test: bool = False
    """other defaults: a small grid on an embedded model, under a minute; flags that are given still count"""

    def __post_init__(self) -> None:
        check_counts(self, seeds=1)
        if self.workers < 1 or (self.workers > 1 and self.ray_address is None):
            raise InputError(
                f"workers {self.workers!r}: at least 1, and more than 1 needs --ray_address local (or a cluster's)"
            )

    def arms(self) -> list[GridArm]:
        """The arms that the lists span.

        Raises:
            InputError: A list that cannot be read, or a value out of range.
        """
        return plan(
            cli.numbers(self.pruning_levels, "pruning_levels"),
            cli.numbers(self.growth_percentages, "growth_percentages"),
            strategies=cli.words(self.growth_strategies),
            repairs=cli.words(self.repairs),
            multipliers=cli.numbers(self.new_head_lr_multipliers, "new_head_lr_multipliers"),
            warmups=_whole(self.warmup_steps, "warmup_steps"),
            cycles=_whole(self.cycles, "cycles"),
            same_size=self.same_size,
            steps=self.setting.training_steps,
        )

    def resolved(self) -> GridSetting:
        """What all cells share, with the text filled in where none was named."""
        return with_text(self.setting, self.setting.model_name)


def _whole(text: str, name: str) -> tuple[int, ...]:
    values = cli.numbers(text, name)
    if any(value != int(value) for value in values):
        raise InputError(f"--{name} wants whole numbers separated by commas, got {text!r}")
    return tuple(int(value) for value in values)
