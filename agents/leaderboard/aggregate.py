"""One figure a player over all boards: the interquartile mean of its normalised scores, with a stratified bootstrap.

After Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice" (the method of their
library rliable): a task is a share on a board, its runs are the calibration seeds; the interquartile mean (IQM) leaves out
the lowest and the highest quarter of all scores, and a replicate draws runs within each task. Here a replicate draws the
same runs for every player, so that ranks have intervals too; each player's own interval is the same either way.

A score is the rise of the loss over the rise that the reference rule leaves in the same cell (same board, share, seed): 1 is
as good as the reference, lower is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from plasticity_env.agents.leaderboard.board_cells import titles
from plasticity_env.agents.leaderboard.statistics import REPLICATES, Estimate, Results, estimate, ranks
from plasticity_env.common.errors import InputError

REFERENCE = "fisher@4"
LEAST_RISE = 1e-3  # nats per token: a rise below it counts as this, where it is divided by


class Aggregate:
    """Players that are on several boards.

    Args:
        boards: Results of each; a board without the reference is left out, and of several on one model and text all but the
            one with most cells, which would count as many models.
        reference: Player whose rise of the loss is the unit.
        replicates: Replicates of the bootstrap.

    Raises:
        InputError: No board has the reference.

    Attributes:
        boards: Boards that count.
        left_out: Headings of those that another one of the same model and text stands for.
        players: Players that all these boards have.
        scores: (P, K) by task, a share on a board: normalised scores by player and seed.
    """

    def __init__(self, boards: Sequence[Results], reference: str = REFERENCE, replicates: int = REPLICATES) -> None:
        there = [board for board in boards if reference in board.players]
        if not there:
            raise InputError(f"scores are normalised by {reference}: play it on some board first")
        most: dict[tuple[str, str], Results] = {}
        for board in sorted(there, key=lambda board: board.flops.size, reverse=True):
            most.setdefault((board.board.model, board.board.text), board)
        self.boards = [board for board in there if board in most.values()]
        named = titles(board.board for board in there)
        self.left_out = [named[board.board] for board in there if board not in self.boards]
        self.reference = reference
        self.players = [
            name for name in self.boards[0].players if all(name in board.players for board in self.boards[1:])
        ]
        self.scores: list[np.ndarray] = []
        for board in self.boards:
            rises = board.means[0]  # (P, S, K)
            unit = np.maximum(rises[board.index(reference)], LEAST_RISE)  # (S, K)
            chosen = rises[[board.index(name) for name in self.players]] / unit
            self.scores += [chosen[:, share] for share in range(len(board.shares))]
        self._replicates = replicates

    @cached_property
    def iqms(self) -> np.ndarray:
        """(R, P): the first row is that of all runs, the others are bootstrap replicates."""
        random = np.random.default_rng(0)
        parts = []
        for scores in self.scores:
            runs = scores.shape[1]
            drawn = random.integers(runs, size=(self._replicates, runs))
            rows = np.concatenate([np.arange(runs)[None], drawn])  # (R, K)
            parts.append(scores[:, rows].transpose(1, 0, 2))  # (R, P, K)
        return iqm(np.concatenate(parts, 2))

    def score(self, player: str) -> Estimate:
        """IQM of a player; without an interval where there is one seed."""
        return estimate(self.iqms[:, self.players.index(player)], self._drawn)

    def rank(self, player: str) -> Estimate:
        """Rank of a player by IQM, 1 the least."""
        return estimate(ranks(self.iqms)[:, self.players.index(player)].astype(float), self._drawn)

    @property
    def note(self) -> str:
        """A sentence about boards that were left out; empty where none was."""
        left = f"Left out, as another board of the same model and text has more cells: {'; '.join(self.left_out)}."
        return left if self.left_out else ""

    @property
    def _drawn(self) -> bool:
        return any(scores.shape[1] > 1 for scores in self.scores)


def iqm(scores: np.ndarray) -> np.ndarray:
    """Mean over the last axis without its lowest and its highest quarter (each rounded down to whole entries)."""
    count = scores.shape[-1]
    cut = count // 4
    return np.sort(scores, -1)[..., cut : count - cut].mean(-1)
