"""Routers side by side on the test texts of a route table, against the best static structure at equal mean FLOPs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from plasticity_env.agents.routing.static_curve import StaticCurve
from plasticity_env.controllers.routers.oracles import LabelOracle, TextOracle
from plasticity_env.controllers.routers.plain_routers import FixedRouter, NearestRouter, ProbingRouter, RandomRouter
from plasticity_env.controllers.routers.route_player import RoutePlayer
from plasticity_env.dynamic.route_table import RouteTable
from plasticity_env.envs.route_board import fitted_kinds

LEVEL = 0.95
REPLICATES = 2000
MIXED = "mixture"


@dataclass(frozen=True)
class Interval:
    """A figure of all texts and percentiles of its bootstrap replicates."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray) -> Interval:
        """The estimate from (R,) values whose first is that of the texts as they are; NaN where any replicate has none."""
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(values[1:], [tail, 1 - tail])
        return cls(float(values[0]), float(low), float(high))

    def text(self, form: str) -> str:
        """Value and interval; a dash where there is none."""
        if np.isnan(self.value):
            return "-"
        if np.isnan([self.low, self.high]).any():
            return f"{self.value:{form}}"
        return f"{self.value:{form}} [{self.low:{form}}, {self.high:{form}}]"


@dataclass(frozen=True)
class RouterRow:
    """One player's row.

    Attributes:
        player, level: The player, and the share or price at which it plays.
        texts: Number of texts.
        rise: Mean rise of the loss over the dense model's, nats per token after the prefix.
        flops_kept: Mean FLOPs of all tokens over the dense model's.
        static_rise: Rise of the best static structure at these mean FLOPs; NaN where no static structure was measured on both
            sides of them.
        saved: What is saved against it, nats.
        over_static: Ratio of the two rises; NaN where the static one is not positive.
    """

    player: str
    level: str
    texts: int
    rise: Interval
    flops_kept: Interval
    static_rise: Interval
    saved: Interval
    over_static: Interval

    def plain(self) -> dict[str, Any]:
        """The row as JSON holds it; None where there is no figure."""
        return {
            name: {part: None if math.isnan(figure) else figure for part, figure in vars(value).items()}
            if isinstance(value, Interval)
            else value
            for name, value in vars(self).items()
        }


def players_of(table: RouteTable, seed: int = 0) -> list[RoutePlayer]:
    """All players that learn nothing and fit a table: at each of its shares, those that need kinds only where it has them."""
    found: list[RoutePlayer] = [FixedRouter(0)]
    kinds = [label for label in dict.fromkeys(table.labels[1:]) if label != MIXED]
    oracle, near = set(table.kinds) <= set(kinds), table.distance.shape[1] > 0
    if near:
        fitted_kinds(table)  # refuses distances to other kinds than the structures'
    for share in sorted(set(table.shares[1:])):
        mixed = [n for n, label in enumerate(table.labels) if label == MIXED and table.shares[n] == share]
        found += [FixedRouter(number) for number in mixed]
        found.append(RandomRouter(share, seed))
        found += [NearestRouter(share)] if near else []
        found.append(ProbingRouter(share))
        found += [LabelOracle(share)] if oracle else []
        found.append(TextOracle(share))
    return found


def evaluate_routers(
    table: RouteTable, texts: np.ndarray, players: Sequence[RoutePlayer], replicates: int = REPLICATES, seed: int = 0
) -> list[RouterRow]:
    """Play routers.

    Args:
        table: What was measured.
        texts: (n,) numbers of the texts.
        players: Players to evaluate.
        replicates: Bootstrap draws over texts, the same for every player and for the static structures (paired).
        seed: Seed of the draws.
    """
    count = len(texts)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=replicates)
    weights = np.concatenate([np.ones((1, count)), drawn]) / count
    curve, rows = StaticCurve(table, texts, weights), []
    for player in players:
        played = player.play(table, texts)
        rise, kept = weights @ played.rise(table, texts), weights @ played.flops_kept(table)
        static = curve.at(kept)
        with np.errstate(divide="ignore", invalid="ignore"):
            over = np.where(static > 0, rise / static, np.nan)
        intervals = [Interval.of(values) for values in (rise, kept, static, static - rise, over)]
        rows.append(RouterRow(player.name, player.level, count, *intervals))
    return rows


def routers_table(rows: Sequence[RouterRow], names: Sequence[str] = ()) -> str:
    """The rows as a Markdown table.

    Args:
        rows: Rows to show.
        names: Names of the structures, for players that run a single one.
    """
    lines = [
        "| player | at | rise over dense, nats | FLOPs kept | best static at equal FLOPs | saved | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        level = row.level
        if level.startswith("structure ") and names:
            level = names[int(level.removeprefix("structure "))]
        cells = (
            row.rise.text(".4f"),
            f"{row.flops_kept.value:.4f}",
            "-" if math.isnan(row.static_rise.value) else f"{row.static_rise.value:.4f}",
            row.saved.text("+.4f"),
            row.over_static.text(".2f"),
        )
        lines.append(f"| {row.player} | {level} | {' | '.join(cells)} |")
    return "\n".join(lines)
