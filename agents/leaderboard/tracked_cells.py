"""What a leaderboard sends where its numbers go: each cell's heads and its rounds as an episode, and who pruned what."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from plasticity_env.agents.leaderboard.board_cells import Cell
from plasticity_env.common.tracking import EpisodeStep, Tracker

CELL_DECISIONS = ["board", "player", "share", "seed", "layer", "pruned_units"]


def track_cell(tracker: Tracker, cell: Cell, number: int) -> None:
    """Write a cell that was played.

    Args:
        tracker: The leaderboard's tracker.
        cell: The cell that was played.
        number: Its place in the file, from 1.
    """
    rise = float(cell.deltas.mean())
    name = f"{cell.board.model}/{cell.player}"
    metrics = {
        "delta_nll": rise,
        "flops_kept": cell.flops_kept,
        "evaluations": cell.evaluations,
        "seconds": cell.seconds,
    }
    tracker.log({f"cell/{key}": float(value) for key, value in metrics.items()}, number)
    kept, heads = cell.kept, len(cell.kept[0]) - cell.board.mlp_blocks
    tracker.heads(kept, number, name, heads)
    start = [[1] * len(row) for row in kept]
    masks = [[[int(unit) for unit in row] for row in mask] for mask in cell.rounds]
    steps = [EpisodeStep(start, "the dense model")]
    steps += [EpisodeStep(mask, f"after round {place}") for place, mask in enumerate(masks[:-1], 1)]
    last = {"delta_nll": rise, "flops_kept": cell.flops_kept}
    steps.append(EpisodeStep(kept, f"after round {max(1, len(masks))}, the last", last))
    tracker.episode(steps, number, name, f"share {cell.share:g}, seed {cell.seed}", heads)


def cell_decisions(cells: Iterable[Cell]) -> list[list[Any]]:
    """A row of `CELL_DECISIONS` for each layer that a player took something from."""
    return [
        [cell.board.title, cell.player, cell.share, cell.seed, layer, len(row) - sum(row)]
        for cell in cells
        for layer, row in enumerate(cell.kept)
        if not all(row)
    ]
