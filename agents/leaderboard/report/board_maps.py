"""Which heads go when: by the share that has to go, and by the round."""

from __future__ import annotations

from typing import Any

import numpy as np

from plasticity_env.agents.leaderboard.statistics import Results

Grid = list[list[float | None]]


def by_share(results: Results, player: str) -> dict[str, Any]:
    """The smallest share of each head at which it is gone, mean over seeds; None where it stays at all shares of a seed.

    Returns:
        ``z`` (L, U) and ``text`` (L, U): what is shown under the pointer.
    """
    kept = np.array([[cell.kept for cell in line] for line in results.cells[results.index(player)]])  # (S, K, L, U)
    shares = np.array(results.shares)
    first = np.where((kept == 0).any(0), shares[(kept == 0).argmax(0)], np.nan)  # (K, L, U)
    gone = (kept == 0).mean((0, 1))  # (L, U)
    stays = np.asarray(np.isnan(first).all(0))
    text = [
        [
            "stays"
            if stays[layer, unit]
            else f"goes from {_percents(first[:, layer, unit])} on; gone in {gone[layer, unit]:.0%} of the cells"
            for unit in range(kept.shape[3])
        ]
        for layer in range(kept.shape[2])
    ]
    late = np.where(np.isnan(first), min(1.0, shares[-1] + (shares[-1] - shares[0]) / max(1, len(shares) - 1)), first)
    return {"z": _cells(np.where(stays, np.nan, late.mean(0))), "text": text}


def by_round(results: Results, player: str, share: float) -> dict[str, Any]:
    """The round of each head after which it stays pruned at a share, mean over the seeds at which it goes.

    Returns:
        The same as of `by_share`.
    """
    line = results.cells[results.index(player)][results.shares.index(share)]
    rounds = np.array([[[list(map(int, layer)) for layer in mask] for mask in cell.rounds] for cell in line])
    last = rounds.shape[1]  # (K, R, L, U)
    there = np.where(rounds == 1, np.arange(1, last + 1)[None, :, None, None], 0).max(1)  # last round that leaves it
    gone = np.where(there < last, there + 1.0, np.nan)  # (K, L, U)
    stays = np.asarray(np.isnan(gone).all(0))
    mean = np.where(stays, np.nan, np.nansum(gone, 0) / np.maximum(1, (~np.isnan(gone)).sum(0)))
    text = [
        [
            "stays"
            if stays[layer, unit]
            else "round " + ", ".join("stays" if np.isnan(value) else f"{value:.0f}" for value in gone[:, layer, unit])
            for unit in range(gone.shape[2])
        ]
        for layer in range(gone.shape[1])
    ]
    return {"z": _cells(mean), "text": text}


def _percents(shares: np.ndarray) -> str:
    return ", ".join("never" if np.isnan(share) else f"{share:.0%}" for share in shares)


def _cells(grid: np.ndarray) -> Grid:
    return [[None if np.isnan(value) else round(float(value), 4) for value in line] for line in grid.tolist()]
