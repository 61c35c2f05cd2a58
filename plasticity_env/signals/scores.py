"""Scores: what units are ranked by. One record each, read by rules, strategies, commands and the leaderboard alike.

A score of your own is one record, registered in one line, from outside the package too:

>>> from plasticity_env import Score, register_score
>>> register_score(Score("cheap", ("fisher", "magnitude"), lambda units: units["fisher"] / units["magnitude"]))
>>> controllers.make("cheap")  # and the pruning strategy "cheap", and the leaderboard's player cheap@4
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from plasticity_env.common.errors import InputError
from plasticity_env.common.registries import Registry, by_name
from plasticity_env.signals.signal import SIGNALS, STANDARD
from plasticity_env.signals.slopes import KINDS
from plasticity_env.signals.slopes import SCORES as ESTIMATES

LAST = 1e6  # importance of MLP blocks under a score of attention: no head comes after them


@dataclass(frozen=True)
class Units:
    """What a score may look at: the N units of one model, layer by layer, as (N,) arrays.

    ``units["fisher"]`` is a signal, float64.

    Attributes:
        signal: Hands out a signal by name; an InputError where it was not measured.
        active: Boolean.
        is_mlp: Boolean, True for blocks of MLP neurons.
        layer: Integers.
        make_random: Makes the source of random choices, where a formula wants one.
    """

    signal: Callable[[str], np.ndarray]
    active: np.ndarray
    is_mlp: np.ndarray
    layer: np.ndarray
    make_random: Callable[[], np.random.Generator]

    @cached_property
    def random(self) -> np.random.Generator:
        """Source of every random choice."""
        return self.make_random()

    def __getitem__(self, name: str) -> np.ndarray:
        return np.asarray(self.signal(name), dtype=np.float64)


@dataclass(frozen=True)
class Score:
    """One score.

    Attributes:
        name: Name of the score, of the controller and the pruning strategy that prune by it, and of the leaderboard's player.
        reads: Signals that it is made of.
        formula: (N,) scores; the one signal that it reads when None.
        prunes: Whether the units of "lowest" or of "highest" score go first.
        origin: "classic" and "own" (this project's) scores are the leaderboard's references, "user" ones only play.
    """

    name: str
    reads: tuple[str, ...] = ()
    formula: Callable[[Units], np.ndarray] | None = None
    prunes: Literal["lowest", "highest"] = "lowest"
    origin: Literal["classic", "own", "user"] = "user"

    def __post_init__(self) -> None:
        if isinstance(self.reads, str) or (self.formula is None and len(self.reads) != 1):
            raise InputError(f"score {self.name!r} needs a formula, or reads=(signal,) with the one that it is")
        for name in self.reads:
            SIGNALS.find(name)

    def importance(self, units: Units) -> np.ndarray:
        """(N,) float64, larger = pruned later; above 0 wherever the scores are.

        Raises:
            InputError: A signal was not measured, or the formula gives another shape.
        """
        values = units[self.reads[0]] if self.formula is None else np.asarray(self.formula(units), dtype=np.float64)
        if values.shape != units.active.shape:
            raise InputError(f"score {self.name!r} gives {values.shape} values for {units.active.shape} units")
        if self.prunes == "highest":
            values = 1.0 + (values.max(initial=1.0) - values)
        if any(SIGNALS[name].heads_only for name in self.reads):
            values = np.where(units.is_mlp, LAST, values)
        return values

    @property
    def needs(self) -> frozenset[str]:
        """What must be switched on for its signals: of "obs", "residual" and "crossfit"."""
        return frozenset(filter(None, (SIGNALS[name].needs for name in self.reads)))

    @property
    def signals(self) -> tuple[str, ...]:
        """The signals among those it reads that are measured only on request, by name."""
        return tuple(name for name in self.reads if SIGNALS[name] not in STANDARD)


def _rank_sum(units: Units) -> np.ndarray:
    """Sum of the ranks of Fisher and OBS among the active units, each from 1 on."""
    total = np.zeros(len(units.active))
    for name in ("fisher", "obs"):
        values = units[name][units.active]
        total[units.active] += values.argsort(kind="stable").argsort(kind="stable") + 1.0
    return total


def _flap(units: Units) -> np.ndarray:
    """FLAP's ranking (An et al. 2023): fluctuation, standardised over the active units of each layer, heads and MLP apart.

    Its exponential, so that it is positive and can be taken per FLOP.
    """
    values, scores = units["fluctuation"], np.zeros(len(units.active))
    for layer in np.unique(units.layer):
        for mlp in (False, True):
            chosen = units.active & (units.layer == layer) & (units.is_mlp == mlp)
            if chosen.any():
                mine = values[chosen]
                scores[chosen] = (mine - mine.mean()) / max(float(mine.std()), 1e-12)
    return np.exp(scores)


SCORES: Registry[Score] = Registry(
    "score",
    by_name(
        (
            *(
                Score(name, (name,), origin="classic")
                for name in ("magnitude", "gradient", "fisher", "obs", "activation")
            ),
            Score(
                "entropy_low",
                ("entropy_normalized",),
                lambda units: 1.0 + units["entropy_normalized"],
                origin="classic",
            ),
            Score("entropy_high", ("entropy_normalized",), prunes="highest", origin="classic"),
            Score("fluctuation", ("fluctuation",), origin="classic"),
            Score("flap", ("fluctuation",), _flap, origin="classic"),
            Score("fisher_obs", ("fisher", "obs"), _rank_sum, origin="classic"),
            Score("random", (), lambda units: units.random.random(len(units.active)), origin="classic"),
            *(Score(name, (name,), origin="own") for kind in KINDS for name in (f"{kind}_{e}" for e in ESTIMATES)),
        )
    ),
)


def register_score(score: Score) -> None:
    """Add a score under its name.

    Raises:
        InputError: The name is that of a score that comes with the package.
    """
    SCORES.add(score.name, score)
