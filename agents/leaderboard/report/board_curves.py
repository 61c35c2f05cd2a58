"""A few players of one board as a picture: test perplexity against the FLOPs that are kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plasticity_env.agents.evaluation.frontier import frontier_png
from plasticity_env.agents.leaderboard.board_cells import Cell, cell_file
from plasticity_env.common.errors import InputError

MOST = 6  # curves that one can still tell apart


def board_curves_png(cells: Path, model: str, players: Sequence[str], path: Path, calibration_blocks: int = 16) -> None:
    """Draw a board of heads under least-squares repair, a line a player, its band from best to worst draw.

    Args:
        cells: The leaderboard's file.
        model: Short name of the board's model.
        players: Players with their rounds, such as ``fisher@4``; at most six.
        path: The picture.
        calibration_blocks: Calibration blocks of the board.

    Raises:
        InputError: If there are more than six players, or one has no cells on this board.
    """
    if len(players) > MOST:
        raise InputError(f"{len(players)} curves cannot be told apart: name at most {MOST} players")
    found = [
        cell
        for cell in cell_file(cells).read()
        if cell.board.model == model
        and cell.board.units == "heads"
        and cell.board.repair == "least_squares"
        and cell.board.calibration_blocks == calibration_blocks
        and cell.player in players
    ]
    absent = [player for player in players if player not in {cell.player for cell in found}]
    if absent:
        raise InputError(f"{str(cells)!r} holds no cells of {', '.join(absent)} on {model}: play them first")
    found.sort(key=lambda cell: players.index(cell.player))
    results = {
        "model": model,
        "dataset": found[0].board.text.removesuffix("/valid.txt"),
        "dense": {"test_ppl": float(np.exp(np.mean(found[0].dense_losses)))},
        "rows": [_row(cell) for cell in found],
    }
    frontier_png(results, path)


def _row(cell: Cell) -> dict[str, Any]:
    return {
        "controller": cell.player.partition("@")[0],
        "repair": cell.board.repair,
        "sparsity": cell.share,
        "flop_price": None,
        "test_ppl": float(np.exp(np.mean(cell.test_losses))),
        "flops_kept": cell.flops_kept,
    }
