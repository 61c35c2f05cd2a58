"""The classic scores: each is one column of the observation, read as importance, or made of one or two."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from plasticity_env.common.errors import InputError, unknown
from plasticity_env.controllers.base import RankedController
from plasticity_env.envs.observation import Observation, head_column
from plasticity_env.signals.slopes import KINDS
from plasticity_env.signals.slopes import SCORES as ESTIMATES

Score = Callable[[Observation, np.random.Generator], np.ndarray]


def _column(name: str, setting: str | None = None) -> Score:
    def score(observation: Observation, random: np.random.Generator) -> np.ndarray:
        values = head_column(observation, name)
        if setting is not None and not values.any():
            raise InputError(f"the environment does not measure {name!r}: make it with {setting}=True")
        return values

    return score


def _entropy(high: bool) -> Score:
    """Prunes the heads of highest (or lowest) entropy first, and MLP blocks, which have none, never before them."""

    def score(observation: Observation, random: np.random.Generator) -> np.ndarray:
        entropy = head_column(observation, "entropy_normalized")
        importance = 1.0 + (1.0 - entropy if high else entropy)
        return np.where(head_column(observation, "is_mlp") > 0, 1e6, importance)

    return score


def _rank_sum(*names: str) -> Score:
    """Sum of the ranks among the active units, each from 1 on."""
    columns = [_column(name, "obs_signal" if name == "obs" else None) for name in names]

    def score(observation: Observation, random: np.random.Generator) -> np.ndarray:
        active = head_column(observation, "active") > 0.5
        total = np.zeros(len(active))
        for column in columns:
            values = column(observation, random)[active]
            total[active] += values.argsort(kind="stable").argsort(kind="stable") + 1.0
        return total

    return score


def _flap(observation: Observation, random: np.random.Generator) -> np.ndarray:
    """FLAP's ranking (An et al. 2023): fluctuation, standardised over the active units of each layer, heads and MLP apart.

    Its exponential, so that it is positive and can be taken per FLOP.
    """
    values = head_column(observation, "fluctuation").astype(np.float64)
    active, depth = head_column(observation, "active") > 0.5, head_column(observation, "depth")
    scores = np.zeros(len(values))
    for mlp in (False, True):
        for layer in np.unique(depth):
            chosen = active & (depth == layer) & ((head_column(observation, "is_mlp") > 0) == mlp)
            if chosen.any():
                mine = values[chosen]
                scores[chosen] = (mine - mine.mean()) / max(float(mine.std()), 1e-12)
    return np.exp(scores)


SCORES: dict[str, Score] = {
    "random": lambda observation, random: random.random(len(observation["heads"])),
    "magnitude": _column("magnitude"),
    "activation": _column("activation"),
    "fluctuation": _column("fluctuation"),
    "flap": _flap,
    "gradient": _column("gradient"),
    "fisher": _column("fisher"),
    "obs": _column("obs", "obs_signal"),
    "fisher_obs": _rank_sum("fisher", "obs"),
    **{
        f"{kind}_{estimate}": _column(f"{kind}_{estimate}", f"{kind}_signal")
        for kind in KINDS
        for estimate in ESTIMATES
    },
    "entropy_high": _entropy(high=True),
    "entropy_low": _entropy(high=False),
}


class ScoreController(RankedController):
    """Prunes by one score.

    Args:
        score: Name in `SCORES`.
        sparsity: Share of all heads to prune.
        rounds: Decisions over which the pruning is spread.
    """

    def __init__(self, score: str, sparsity: float = 0.3, rounds: int = 1) -> None:
        if score not in SCORES:
            raise unknown("score", score, SCORES)
        super().__init__(sparsity, rounds)
        self.name = score
        self._score = SCORES[score]
        self.reset(0)

    def importance(self, observation: Observation) -> np.ndarray:
        return np.asarray(self._score(observation, self.random), dtype=np.float64)
