"""From rules to a complete table: shards in the folder ``shards``, and the table in the folder ``table`` once all are there."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from plasticity_env.agents.leaderboard.board_rules import Rules
from plasticity_env.agents.leaderboard.playing import Table
from plasticity_env.agents.tabular.mask_shards import MaskShards
from plasticity_env.common.at_work import at_work_in
from plasticity_env.common.progress import Progress
from plasticity_env.tabular.data_card import masks_card
from plasticity_env.tabular.mask_table import KIND
from plasticity_env.tabular.table_files import write_table

VERSION = "1.0.0"  # of what a table says; grows with its columns and with how they are measured
TABLE = "table"
STEP = 2.0**-18  # nats: what losses are rounded to, 4e-6, so that no byte says what another processor would not


def write_masks(rules: Rules, seed: int, folder: Path, limit: int | None = None, whole_layers: int = 0) -> str:
    """Measure the shards that are missing and, once none is, write the table.

    Args:
        rules: The model and its texts.
        seed: Draws the calibration and reward blocks.
        folder: The run's folder.
        limit: Most shards to measure now; None for all.
        whole_layers: So many first layers keep all their heads in every mask.

    Returns:
        A line that says what was done.

    Raises:
        InputError: The model cannot have such a table, or the folder belongs to another one.
    """
    with at_work_in(folder):
        return measured(MaskShards(folder, Table(rules), seed, whole_layers), limit)


def measured(shards: MaskShards, limit: int | None = None) -> str:
    """Write the table of `write_masks` from shards that are there."""
    known, began = shards.total - len(shards.missing()), time.perf_counter()
    with Progress("masks", shards.total, start=known) as progress:
        for _ in shards.measure(limit):
            progress.advance()
    seconds, left = time.perf_counter() - began, len(shards.missing())
    done = shards.total - left
    took = f"{done - known} of {shards.total} shards measured in {seconds:.0f} s"
    if left:
        return f"{took}; {left} are left: run the same command again"
    rows = _rounded(shards.rows())
    parts = {
        "masks": rows.drop_columns(["test_loss"]),
        "masks_test": rows.select(["mask", "test_loss"]),
    }
    about = {"kind": KIND, "version": VERSION, **shards.about, "machines": shards.machines}
    place = shards.folder / TABLE
    write_table(place, parts, about, masks_card(about, rows.num_rows))
    return f"{took}; table: {place}"


def _rounded(rows: pa.Table) -> pa.Table:
    for place, name in enumerate(rows.column_names):
        if name.endswith("_loss"):
            values = np.round(rows[name].to_numpy() / STEP) * STEP
            rows = rows.set_column(place, name, pa.array(values.astype(np.float32)))
    return rows
