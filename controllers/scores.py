"""The classic scores: each is one column of the observation, read as importance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from controllers.protocol import RankedController
from plasticity_env.errors import unknown
from plasticity_env.observation import Observation, head_column

Score = Callable[[Observation, np.random.Generator], np.ndarray]


def _column(name: str, sign: float = 1.0) -> Score:
    return lambda observation, random: sign * head_column(observation, name)


SCORES: dict[str, Score] = {
    "random": lambda observation, random: random.random(len(observation["heads"])),
    "magnitude": _column("magnitude"),
    "activation": _column("activation"),
    "gradient": _column("gradient"),
    "fisher": _column("fisher"),
    "obs": _column("obs"),
    "entropy_high": _column("entropy_normalized", -1.0),  # prunes the highest entropy first
    "entropy_low": _column("entropy_normalized"),  # prunes the lowest entropy first
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
