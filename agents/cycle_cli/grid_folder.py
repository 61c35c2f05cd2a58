"""The grid as a command: its arguments, and the folder that it leaves."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

from plasticity_env.common import cli
from plasticity_env.common.arguments import flags
from plasticity_env.common.at_work import at_work_in
from plasticity_env.common.errors import InputError
from plasticity_env.common.files import write_text
from plasticity_env.common.progress import Progress
from plasticity_env.cycle.grid.grid_picture import recovery_png
from plasticity_env.cycle.grid.grid_plan import GROWTHS, NONE, GridArm, GridSetting, plan
from plasticity_env.cycle.grid.grid_report import grid_table
from plasticity_env.cycle.grid.grid_run import GridCell, Mapper, check_grid, read_cells, run_grid
from plasticity_env.data.text import load_text
from plasticity_env.model.loading import load_model
from plasticity_env.steps.opening import text_or_default

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
    """how the heads that stay make up for those that go before anything trains: none, least_squares, ..."""
    warmup_steps: str = "30"
    """training steps in which the gates of grown heads open; 0 opens them at once"""
    new_head_lr_multipliers: str = "1"
    """learning rates of heads that came back, in multiples of the others'"""
    cycles: str = "1"
    """prune to the level, bring back and train so many times, at equal training steps in all"""
    same_size: bool = True
    """also prune, once, only as many heads as are missing after growth, and train that alike"""
    seeds: int = 1
    """runs of each cell"""
    device: str = "cpu"
    """cpu, cuda, ..."""
    ray_address: str | None = None
    """run cells as Ray tasks: local (processes of this machine), auto (the cluster that this machine belongs to) or HOST:PORT"""
    workers: int = 1
    """cells at work at once, with --ray_address"""
    output_dir: Path = Path("runs/neural_plasticity/grid")
    """cells.jsonl, table.md, visualizations/; a second run goes on where the first was cut, and adds its cells"""
    quick_test: bool = False
    """other defaults: a small grid on an embedded model, under a minute; flags that are given still count"""

    def __post_init__(self) -> None:
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
        own = self.setting
        dataset, config = text_or_default(own.model_name, own.dataset, own.dataset_config)
        return replace(own, dataset=dataset, dataset_config=config)


def run_command(config: GridConfig, mapper: Mapper | None = None) -> str:
    """Run the cells that are missing, and write the folder.

    Args:
        config: Arguments.
        mapper: Runs cells elsewhere; None runs them here.

    Returns:
        The table.

    Raises:
        InputError: Arguments that cannot be used, or another process at work in the folder; nothing is written.
    """
    with at_work_in(config.output_dir):
        return _run(config, mapper)


def _run(config: GridConfig, mapper: Mapper | None) -> str:
    arms, setting = config.arms(), config.resolved()
    loaded = load_model(setting.model_name, device=config.device)
    text = load_text(
        setting.dataset, loaded.tokenizer, dataset_config=setting.dataset_config, block_size=setting.max_length
    )
    cells, total = config.output_dir / CELLS, len(arms) * config.seeds
    check_grid(loaded, text, setting, arms, config.seeds)
    read_cells(cells)
    note = {"command": cli.command(), "machine": cli.machine(), "setting": asdict(setting), "seeds": config.seeds}
    write_text(config.output_dir / CONFIG, json.dumps(note, indent=1) + "\n")
    print(f"{len(arms)} arms x {config.seeds} seeds, {cli.machine()}", file=sys.stderr)
    with _reported(config, setting), Progress("cells", total) as progress:
        for cell, known in run_grid(loaded, text, setting, arms, config.seeds, cells, mapper):
            if not known:
                print(_said(cell), file=sys.stderr, flush=True)
            progress.advance(1, loss=cell.final_loss)
    return grid_table(_own(config, setting))


@contextmanager
def _reported(config: GridConfig, setting: GridSetting) -> Iterator[None]:
    """Write table and picture of whatever is finished when the block ends, well or not."""
    try:
        yield
    finally:
        found = _own(config, setting)
        if found:
            write_text(config.output_dir / TABLE, f"{grid_table(found)}\n\n`{cli.command()}` on {cli.machine()}\n")
            if config.save_visualizations:
                try:
                    recovery_png(found, config.output_dir / PICTURE)
                except InputError as error:
                    print(f"no heat map: {error}", file=sys.stderr)


def _own(config: GridConfig, setting: GridSetting) -> list[GridCell]:
    """All finished cells of the setting, those of earlier runs included."""
    return [cell for cell in read_cells(config.output_dir / CELLS) if cell.setting == setting]


def _said(cell: GridCell) -> str:
    arm = cell.arm
    back = "nothing back" if arm.growth == NONE else f"{arm.growth} {arm.percentage:.0%} back"
    how = f"{back}, {arm.multiplier:g}x, warm-up {arm.warmup_steps}, {arm.cycles} cycle{'s' * (arm.cycles > 1)}"
    losses = f"{cell.pruned_loss:.4f} pruned, {cell.final_loss:.4f} trained"
    return f"seed {cell.seed}  {arm.level:.0%} pruned, repair {arm.repair}, {how}: {losses}, {cell.seconds:.1f} s"


def _whole(text: str, name: str) -> tuple[int, ...]:
    values = cli.numbers(text, name)
    if any(value != int(value) for value in values):
        raise InputError(f"--{name} wants whole numbers separated by commas, got {text!r}")
    return tuple(int(value) for value in values)
