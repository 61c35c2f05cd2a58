"""The leaderboard's cells and route tables as one data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from plasticity_env.agents.leaderboard.board_cells import Cell, cell_file
from plasticity_env.agents.tabular.route_rows import route_parts
from plasticity_env.common.at_work import at_work_on
from plasticity_env.common.errors import InputError
from plasticity_env.dynamic.route_table import SHIPPED, shipped_tables
from plasticity_env.tabular.cell_table import BOARD, KIND
from plasticity_env.tabular.data_card import cells_card
from plasticity_env.tabular.table_files import write_table

VERSION = "1.1.0"  # of what a row says; grows with its columns
_PLAIN = ("player", "fingerprint", "share", "seed", "flops_kept")
_PAID = ("evaluations", "forward_tokens", "backward_tokens", "seconds", "machine", "validated")


def write_cells(cells: Path, folder: Path, routes: Sequence[Path] = ()) -> str:
    """Write a leaderboard's cells, and route tables, as a data set.

    Args:
        cells: JSON lines, as `plasticity leaderboard` wrote them.
        folder: Folder that the data set goes to.
        routes: Folders of route tables; none for those that come with the package.

    Returns:
        A line that says what was written.

    Raises:
        InputError: No cells or route tables there, a line that is none, or a folder that holds something else.
    """
    if not cells.is_file():
        raise InputError(f"no cells at {str(cells)!r}: name the file that plasticity leaderboard wrote (--cells)")
    parts, tables = route_parts(routes or [SHIPPED / name for name in shipped_tables()])
    with at_work_on(folder):
        found = cell_file(cells).read()
        if not found:
            raise InputError(f"{str(cells)!r} holds no cells yet: play some with plasticity leaderboard")
        found.sort(key=lambda cell: tuple(map(str, cell.key)))
        rows = pa.Table.from_pylist([_row(number, cell) for number, cell in enumerate(found)])
        test = pa.Table.from_pylist(
            [_test(number, cell) for number, cell in enumerate(found)],
            schema=pa.schema(
                {"cell": pa.int32(), "test_losses": pa.list_(pa.float32()), "dense_losses": pa.list_(pa.float32())}
            ),
        )
        boards = sorted({f"{cell.board.model} on {cell.board.text}" for cell in found})
        players = len({cell.player for cell in found})
        about = {"kind": KIND, "version": VERSION, "boards": boards, "players": players, "routes": tables}
        write_table(folder, {"cells": rows, "cells_test": test, **parts}, about, cells_card(about, len(found)))
    texts = sum(of["texts"] for of in tables)
    return (
        f"{len(found)} cells of {len(boards)} models and texts, {texts} texts of {len(tables)} route tables: {folder}"
    )


def _row(number: int, cell: Cell) -> dict[str, Any]:
    masks = ["/".join(mask) for mask in cell.rounds]
    kept = "/".join("".join(map(str, layer)) for layer in cell.kept)
    board = {name: getattr(cell.board, name) for name in ("model", "text", *BOARD)}
    values = {name: getattr(cell, name) for name in (*_PLAIN, *_PAID)}
    return {"cell": number, **board, **values, "mask": kept, "rounds": masks}


def _test(number: int, cell: Cell) -> dict[str, Any]:
    return {"cell": number, "test_losses": list(cell.test_losses), "dense_losses": list(cell.dense_losses)}
