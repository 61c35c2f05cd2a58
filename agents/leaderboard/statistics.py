"""Areas under delta-NLL over FLOPs kept, their ratios to the best rule's, and bootstrap intervals over test blocks.

The loss of a player at a FLOPs between two of its cells is interpolated linearly; the area is taken over the interval that
all players of a board cover, and divided by its length: the mean rise of the loss over it, in nats per token.

The bootstrap (Efron and Tibshirani 1993) draws test blocks. A replicate uses the same blocks for every player, share and
calibration seed, so that what is easy or hard about a text cancels in ratios; calibration seeds are strata and stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from agents.leaderboard.cells import Board, Cell
from agents.leaderboard.players import SINGLE_SCORES
from plasticity_env.errors import InputError

LEVEL = 0.95
REPLICATES = 2000
ALLOWED_ROUNDS = (1, 4)  # in which a single-score rule counts as the best rule


@dataclass(frozen=True)
class Estimate:
    """A figure and its bootstrap interval.

    Attributes:
        value: From all blocks.
        low, high: Percentiles of the replicates.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


class Results:
    """The cells of one board that all of some players have: same shares, same seeds, same blocks.

    Args:
        cells: Of one board; of a player with several fingerprints the last counts.
        players: Which to compare; all when None.
        replicates: Of the bootstrap.

    Raises:
        InputError: Nothing that all have.

    Attributes:
        players: Names, in order of first appearance.
        shares, seeds: That all of them have.
        missing: Players that were left out because they lack cells of the others.
        deltas: (P, S, K, B) rise of the loss, nats per token, by player, share, seed, test block.
        flops: (P, S, K) share of FLOPs kept.
    """

    def __init__(
        self, cells: Iterable[Cell], players: Sequence[str] | None = None, replicates: int = REPLICATES
    ) -> None:
        found: dict[str, dict[tuple[float, int], Cell]] = {}
        for cell in cells:
            own = found.setdefault(cell.player, {})
            if own and next(iter(own.values())).fingerprint != cell.fingerprint:
                own.clear()
            own[cell.share, cell.seed] = cell
        if players is not None:
            found = {name: found[name] for name in players if name in found}
        if not found:
            raise InputError("no cells to compare: play some players first")
        places = set.union(*(set(own) for own in found.values()))
        self.shares = sorted({share for share, _ in places})
        self.seeds = sorted({seed for _, seed in places})
        whole = {(share, seed) for share in self.shares for seed in self.seeds}
        self.missing = [name for name, own in found.items() if set(own) != whole]
        self.players = [name for name in found if name not in self.missing]
        if not self.players:
            raise InputError("no player has all shares and seeds that are in the file: play the rest first")
        grid = [[[found[name][share, seed] for seed in self.seeds] for share in self.shares] for name in self.players]
        self.cells = grid
        self.board: Board = grid[0][0][0].board
        self.deltas = np.array([[[cell.deltas for cell in line] for line in lines] for lines in grid])
        self.flops = np.array([[[cell.flops_kept for cell in line] for line in lines] for lines in grid])
        self.dense = np.array(grid[0][0][0].dense_losses)  # (B,)
        self._replicates = replicates

    def index(self, player: str) -> int:
        """Place of a player."""
        return self.players.index(player)

    @cached_property
    def weights(self) -> np.ndarray:
        """(R, B) weight of every block: the first row is the whole text, the others are bootstrap replicates."""
        blocks = self.deltas.shape[-1]
        drawn = np.random.default_rng(0).multinomial(blocks, np.full(blocks, 1 / blocks), size=self._replicates)
        return np.concatenate([np.ones((1, blocks)), drawn]) / blocks

    @cached_property
    def means(self) -> np.ndarray:
        """(R, P, S, K) mean rise of the loss."""
        return np.einsum("rb,pskb->rpsk", self.weights, self.deltas)

    @cached_property
    def interval(self) -> tuple[float, float]:
        """Shares of FLOPs kept that every player covers at every seed.

        Raises:
            InputError: There are none.
        """
        low, high = float(self.flops.min(1).max()), float(self.flops.max(1).min())
        if not low < high:
            raise InputError(f"areas need at least two shares that all players cover, got {self.shares}")
        return low, high

    @cached_property
    def areas(self) -> np.ndarray:
        """(R, P) area of each player, mean over seeds, nats per token."""
        low, high = self.interval
        total = np.zeros(self.means.shape[:2])
        for player in range(len(self.players)):
            for seed in range(len(self.seeds)):
                weights = area_weights(self.flops[player, :, seed], low, high)  # (S,)
                total[:, player] += self.means[:, player, :, seed] @ weights
        return total / len(self.seeds)

    @cached_property
    def seed_areas(self) -> np.ndarray:
        """(P, K) area of each player at each seed."""
        low, high = self.interval
        return np.array(
            [
                [self.means[0, p, :, k] @ area_weights(self.flops[p, :, k], low, high) for k in range(len(self.seeds))]
                for p in range(len(self.players))
            ]
        )

    @property
    def rules(self) -> list[str]:
        """Players that are single scores in one or four rounds."""
        return [name for name in self.players if is_single_score(name)]

    def best_rule(self) -> str | None:
        """The single score of least area; None when none was played."""
        rules = self.rules
        return min(rules, key=lambda name: float(self.areas[0, self.index(name)])) if rules else None

    def area(self, player: str) -> Estimate:
        """Area of a player."""
        return estimate(self.areas[:, self.index(player)])

    def area_ratio(self, player: str, others: Sequence[str]) -> Estimate:
        """Area of a player over the least area of others; a replicate chooses the least anew."""
        least = self.areas[:, [self.index(name) for name in others]].min(1)
        return estimate(self.areas[:, self.index(player)] / least)

    def perplexity_ratio(self, player: str, other: str, share: float) -> Estimate:
        """Perplexity of a player over another's at a share, geometric mean over seeds."""
        at = self.shares.index(share)
        rise = self.means[:, self.index(player), at] - self.means[:, self.index(other), at]  # (R, K)
        return estimate(np.exp(rise.mean(1)))

    def perplexities(self, player: str, share: float) -> np.ndarray:
        """(K,) test perplexity at each seed."""
        losses = self.dense.mean() + self.means[0, self.index(player), self.shares.index(share)]
        return np.exp(np.minimum(losses, 700.0))

    @cached_property
    def ranks(self) -> np.ndarray:
        """(R, P) rank of each player by area, 1 the least."""
        return self.areas.argsort(1, kind="stable").argsort(1, kind="stable") + 1

    def rank(self, player: str) -> Estimate:
        """Rank of a player by area."""
        return estimate(self.ranks[:, self.index(player)].astype(float))


def area_weights(flops: np.ndarray, low: float, high: float) -> np.ndarray:
    """(S,) weights that give the mean of a piecewise linear curve over an interval as a sum over its values.

    Args:
        flops: (S,) where the curve has its values, in any order, covering the interval.
        low, high: The interval.
    """
    order = np.argsort(flops, kind="stable")
    places = np.unique(np.concatenate([[low, high], flops[(flops > low) & (flops < high)]]))
    widths = np.zeros(len(places))
    widths[:-1] += np.diff(places) / 2
    widths[1:] += np.diff(places) / 2
    weights = np.zeros(len(flops))
    for number, basis in enumerate(np.eye(len(flops))):
        weights[number] = widths @ np.interp(places, flops[order], basis[order])
    return weights / (high - low)


def estimate(values: np.ndarray) -> Estimate:
    """Of (R,) values whose first is that of the whole text."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(values[1:], [tail, 1 - tail]) if len(values) > 1 else (values[0], values[0])
    return Estimate(float(values[0]), float(low), float(high))


def is_single_score(player: str) -> bool:
    """Whether a player counts for the best rule."""
    name, _, rounds = player.rpartition("@")
    return name in SINGLE_SCORES and int(rounds) in ALLOWED_ROUNDS


def is_own_rule(player: str) -> bool:
    """Whether a player is one of this project's own single scores, the second reference."""
    name, _, rounds = player.rpartition("@")
    return name.startswith("residual_") and int(rounds) in ALLOWED_ROUNDS
