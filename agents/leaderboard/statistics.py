"""Areas under delta-NLL over FLOPs kept, their ratios to the best rule's, and bootstrap intervals over test blocks.

The loss of a player at a FLOPs between two of its cells is interpolated linearly; the area is taken over the interval that
all players of a board cover, and divided by its length: the mean rise of the loss over it, in nats per token.

The bootstrap (Efron and Tibshirani 1993) draws test blocks. A replicate uses the same blocks for every player, share and
calibration seed, so that what is easy or hard about a text cancels in ratios; calibration seeds are strata and stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from plasticity_env.agents.leaderboard.board_cells import Board, Cell
from plasticity_env.agents.leaderboard.players import OWN_SCORES, RULE_ROUNDS, SINGLE_SCORES
from plasticity_env.common.errors import InputError

LEVEL = 0.95
REPLICATES = 2000
SAME_LOSS = 1e-2  # relative: devices and rounding stay far below it, another text or model does not


@dataclass(frozen=True)
class Estimate:
    """A figure and its bootstrap interval.

    Attributes:
        value: Estimate from all blocks.
        low, high: Percentiles of the replicates.
        drawn: Whether there was something to draw from; else low and high are no interval.
    """

    value: float
    low: float
    high: float
    drawn: bool = True

    def text(self, form: str = ".3f") -> str:
        """The value and, where there is one, its interval."""
        return f"{self.value:{form}}" + (f" [{self.low:{form}}, {self.high:{form}}]" if self.drawn else "")

    def __str__(self) -> str:
        return self.text()


class Results:
    """The cells of one board that all of some players have: same shares, same seeds, same blocks.

    Args:
        cells: Cells of one board; of a player with several fingerprints the last counts.
        players: Players to compare; None compares all.
        replicates: Replicates of the bootstrap.

    Raises:
        InputError: Nothing that all have, or dense losses that no one model has on one text.

    Attributes:
        players: Names, in order of first appearance.
        shares, seeds: Shares and seeds that all of them have.
        missing: Players that were left out because they lack cells of the others.
        deltas: (P, S, K, B) rise of the loss, nats per token, by player, share, seed, test block.
        flops: (P, S, K) share of FLOPs kept.
    """

    def __init__(
        self, cells: Iterable[Cell], players: Sequence[str] | None = None, replicates: int = REPLICATES
    ) -> None:
        cells, found = list(cells), dict[str, dict[tuple[float, int], Cell]]()
        _check_dense(cells)
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

    @property
    def has_areas(self) -> bool:
        """Whether there is an interval of FLOPs that every player covers."""
        return bool(self.flops.min(1).max() < self.flops.max(1).min())

    @cached_property
    def interval(self) -> tuple[float, float]:
        """Shares of FLOPs kept that every player covers at every seed.

        Raises:
            InputError: The players have no such interval in common.
        """
        low, high = float(self.flops.min(1).max()), float(self.flops.max(1).min())
        if not self.has_areas:
            raise InputError(f"areas need at least two shares that all players cover, got {self.shares}")
        return low, high

    @cached_property
    def areas(self) -> np.ndarray:
        """(R, P) area of each player, mean over seeds, nats per token."""
        return self._weighed(lambda flops: area_weights(flops, *self.interval))

    def rise_at(self, kept: float) -> np.ndarray:
        """(R, P) rise of the loss at a share of FLOPs kept, interpolated, mean over seeds, nats per token.

        Raises:
            InputError: If not all players cover it.
        """
        low, high = self.interval
        if not low <= kept <= high:
            raise InputError(f"not all players cover {kept:g} of the FLOPs, only {low:.3f} to {high:.3f}")
        return self._weighed(lambda flops: point_weights(flops, np.array([kept]))[:, 0])

    def _weighed(self, weights: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """(R, P) sum over shares of what ``weights`` makes of (S,) FLOPs kept, mean over seeds."""
        factors = np.apply_along_axis(weights, 1, self.flops)  # (P, S, K)
        return np.einsum("rpsk,psk->rp", self.means, factors) / len(self.seeds)

    @property
    def rules(self) -> list[str]:
        """Players that are single scores in one or four rounds."""
        return [name for name in self.players if is_single_score(name)]

    def best_rule(self) -> str | None:
        """The single score of least area; None when none was played, or there are no areas."""
        rules = self.rules
        if not rules or not self.has_areas:
            return None
        return min(rules, key=lambda name: float(self.areas[0, self.index(name)]))

    def area(self, player: str) -> Estimate:
        """Area of a player."""
        return estimate(self.areas[:, self.index(player)])

    def area_ratio(self, player: str, others: Sequence[str]) -> Estimate:
        """Area of a player over the least area of others; a replicate chooses the least anew."""
        least = self.areas[:, [self.index(name) for name in others]].min(1)
        return estimate(self.areas[:, self.index(player)] / least)

    def rise_ratio(self, player: str, others: Sequence[str], kept: float) -> Estimate:
        """Rise of the loss of a player at a share of FLOPs kept over the least of others."""
        rises = self.rise_at(kept)
        return estimate(rises[:, self.index(player)] / rises[:, [self.index(name) for name in others]].min(1))

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
        return ranks(self.areas)

    def rank(self, player: str) -> Estimate:
        """Rank of a player by area."""
        return estimate(self.ranks[:, self.index(player)].astype(float))


def area_weights(flops: np.ndarray, low: float, high: float) -> np.ndarray:
    """(S,) weights that give the mean of a piecewise linear curve over an interval as a sum over its values.

    Args:
        flops: (S,) where the curve has its values, in any order, covering the interval.
        low, high: Ends of the interval.
    """
    places = np.unique(np.concatenate([[low, high], flops[(flops > low) & (flops < high)]]))
    widths = np.zeros(len(places))
    widths[:-1] += np.diff(places) / 2
    widths[1:] += np.diff(places) / 2
    return point_weights(flops, places) @ widths / (high - low)


def point_weights(flops: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(S, n) weights that give a piecewise linear curve at n places as sums over its values.

    Args:
        flops: (S,) where the curve has its values, in any order.
        places: (n,) inside their range.
    """
    order = np.argsort(flops, kind="stable")
    return np.array([np.interp(places, flops[order], basis[order]) for basis in np.eye(len(flops))])


def ranks(values: np.ndarray) -> np.ndarray:
    """(R, P) rank of each column within its row, 1 the least; equal ones share the better rank."""
    return 1 + (values[:, :, None] > values[:, None, :] + 1e-12).sum(2)


def estimate(values: np.ndarray, drawn: bool = True) -> Estimate:
    """The estimate from (R,) values whose first is that of the whole text, and whether replicates could differ."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(values[1:], [tail, 1 - tail]) if len(values) > 1 else (values[0], values[0])
    return Estimate(float(values[0]), float(low), float(high), drawn)


def _check_dense(cells: Sequence[Cell]) -> None:
    """Refuse cells of several models or texts under the same short names."""
    for cell in cells[1:]:
        first, losses = np.array(cells[0].dense_losses), np.array(cell.dense_losses)
        if len(first) != len(losses) or not np.allclose(losses, first, rtol=SAME_LOSS, atol=0):
            raise InputError(
                f"the dense losses of {cell.player} ({cell.share:g}, seed {cell.seed}) are not those of {cells[0].player}: "
                "another model or text has the same short name; keep its cells in a file of their own"
            )


def is_single_score(player: str) -> bool:
    """Whether a player counts for the best rule."""
    name, _, rounds = player.rpartition("@")
    return name in SINGLE_SCORES and int(rounds) in RULE_ROUNDS


def is_own_rule(player: str) -> bool:
    """Whether a player is one of this project's own single scores, the second reference."""
    name, _, rounds = player.rpartition("@")
    return name in OWN_SCORES and int(rounds) in RULE_ROUNDS
