"""The grid as a command: its arguments, and the folder that it leaves."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

from plasticity_env.agents.cycle_cli.grid_config import CELLS, CONFIG, PICTURE, TABLE, GridConfig
from plasticity_env.common import cli
from plasticity_env.common.at_work import at_work_in
from plasticity_env.common.errors import InputError
from plasticity_env.common.files import write_text
from plasticity_env.common.progress import Progress
from plasticity_env.cycle.grid.grid_picture import recovery_png
from plasticity_env.cycle.grid.grid_plan import NONE, GridSetting
from plasticity_env.cycle.grid.grid_report import grid_table
from plasticity_env.cycle.grid.grid_run import GridCell, Mapper, check_grid, read_cells, run_grid
from plasticity_env.model.loading import load_model


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
    text = setting.load(loaded.tokenizer)
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
