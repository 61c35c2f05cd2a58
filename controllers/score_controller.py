"""The controller of one score: prunes the least important units by what the environment shows of it."""

from __future__ import annotations

import numpy as np

from plasticity_env.common.errors import InputError
from plasticity_env.controllers.base import RankedController
from plasticity_env.envs.observation import Observation, head_column
from plasticity_env.signals.scores import SCORES, Units
from plasticity_env.signals.signal import SIGNALS


def units_of(observation: Observation, random: np.random.Generator) -> Units:
    """What a score reads, from an observation.

    Args:
        observation: Observation of any environment.
        random: Source of random scores.
    """

    def signal(name: str) -> np.ndarray:
        values = head_column(observation, name)
        setting = SIGNALS.find(name).setting
        if setting and not values.any():
            raise InputError(f"the environment does not measure {name!r}: make it with {setting}=True")
        return values

    active, is_mlp = (head_column(observation, name) > 0.5 for name in ("active", "is_mlp"))
    layer = np.unique(head_column(observation, "depth"), return_inverse=True)[1]
    return Units(signal, active, is_mlp, layer, lambda: random)


class ScoreController(RankedController):
    """Prunes by one score.

    Args:
        score: Name in `plasticity_env.signals.scores.SCORES`.
        sparsity: Share of all heads to prune.
        rounds: Decisions over which the pruning is spread.
    """

    def __init__(self, score: str, sparsity: float = 0.3, rounds: int = 1) -> None:
        self._score = SCORES.find(score)
        super().__init__(sparsity, rounds)
        self.name, self.signals = score, self._score.signals
        self.reset(0)

    def importance(self, observation: Observation) -> np.ndarray:
        return self._score.importance(units_of(observation, self.random))
