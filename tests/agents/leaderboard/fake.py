"""Cells that no model played, for statistics and pages."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from plasticity_env.agents.leaderboard.board_cells import Board, Cell

SHARES = (0.1, 0.3, 0.5)
BOARD = Board("toy", "text", 32, 4, 4, 24)


def cell(
    player: str, deltas: np.ndarray, share: float, seed: int, *, board: Board = BOARD, flops: float | None = None
) -> Cell:
    """A cell with the given rise of the loss on each test block."""
    dense = np.linspace(2.0, 4.0, len(deltas))
    layers, heads = 3, 4
    gone = round(share * layers * heads)
    kept = np.array([0] * gone + [1] * (layers * heads - gone)).reshape(layers, heads)
    half = kept.copy().reshape(-1)
    half[: gone // 2 + gone % 2] = 0
    half[gone // 2 + gone % 2 : gone] = 1
    rounds = (half.reshape(layers, heads), kept) if player.endswith("@4") else (kept,)
    return Cell(
        board=board,
        player=player,
        fingerprint="",
        share=share,
        seed=seed,
        test_losses=tuple(dense + deltas),
        dense_losses=tuple(dense),
        flops_kept=1 - 0.4 * share if flops is None else flops,
        kept=tuple(map(tuple, kept.tolist())),
        rounds=tuple(tuple("".join(map(str, line)) for line in mask.tolist()) for mask in rounds),
        evaluations=12,
        forward_tokens=100,
        backward_tokens=50,
        seconds=0.5,
        machine="CPU",
    )


def cells(
    players: dict[str, float],
    *,
    seeds: int = 3,
    shares: Sequence[float] = SHARES,
    board: Board = BOARD,
    noise: float = 0.3,
) -> list[Cell]:
    """Cells of players whose rise of the loss is a factor times what is hard about a share, a seed and a block."""
    found = []
    for seed in range(seeds):
        for share in shares:
            random = np.random.default_rng([seed, round(100 * share)])
            hard = share * (1 + noise * random.standard_normal(board.test_blocks))
            found += [cell(name, factor * hard, share, seed, board=board) for name, factor in players.items()]
    return found
