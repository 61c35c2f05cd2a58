"""``plasticity tabular``: make tables of what was measured, for others to choose and search on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from plasticity_env.agents.commands.command import Command
from plasticity_env.common.arguments import check_counts, flags
from plasticity_env.common.errors import unknown
from plasticity_env.envs.settings import TEXT_ARGUMENTS, Settings


@dataclass(frozen=True)
class TabularConfig:
    """Arguments of tables."""

    table: tyro.conf.Positional[str] = "build"
    """build (the leaderboard's cells and route tables as a data set) or masks (every mask of a small model, measured)"""
    output_dir: Path | None = None
    """folder of the table; unset: runs/tabular/cells, or runs/tabular/MODEL. A second run of masks goes on there"""
    cells: Path = Path("docs/leaderboard/cells.jsonl")
    """build: a leaderboard's file"""
    routes: str = ""
    """build: folders of route tables, separated by commas; unset: those that come with the package"""
    settings: Annotated[
        Settings,
        flags(
            Settings,
            "model_name",
            *TEXT_ARGUMENTS,
            "repair",
            "calibration_blocks",
            "reward_blocks",
            "batch_size",
            "device",
        ),
    ] = field(
        default_factory=lambda: replace(
            Settings(), max_length=128, calibration_blocks=8, reward_blocks=8, residual_signal=False, device="auto"
        )
    )
    """masks: the model, its text and its repair"""
    test_blocks: int = 16
    """masks: blocks of the test split"""
    seed: int = 0
    """masks: draws the calibration and reward blocks"""
    whole_layers: int = 0
    """masks: so many first layers keep all their heads, for a model with more than 20 or for a quick try"""
    shards: int | None = None
    """masks: measure at most this many shards in this run; unset: all that are missing"""

    def __post_init__(self) -> None:
        check_counts(self, test_blocks=1, seed=0, shards=1, whole_layers=0)


def main(config: TabularConfig) -> None:
    """Write the leaderboard's cells, or every mask of a small model, as a data set (Parquet and a card)."""
    if config.table not in TABLES:
        raise unknown("table", config.table, TABLES)
    TABLES[config.table](config)


def _build(config: TabularConfig) -> None:
    from plasticity_env.agents.tabular.cell_rows import write_cells
    from plasticity_env.common.cli import words

    folder = config.output_dir or Path("runs/tabular/cells")
    print(write_cells(config.cells, folder, [Path(name) for name in words(config.routes)]))


def _masks(config: TabularConfig) -> None:
    from plasticity_env.agents.leaderboard.board_rules import Rules, short_name
    from plasticity_env.agents.tabular.whole_table import write_masks

    folder = config.output_dir or Path("runs/tabular") / short_name(config.settings.model_name)
    rules = Rules(config.settings, config.test_blocks)
    print(write_masks(rules, config.seed, folder, config.shards, config.whole_layers))


TABLES: dict[str, Callable[[TabularConfig], None]] = {"build": _build, "masks": _masks}
COMMAND = Command("tabular", TabularConfig, main)
