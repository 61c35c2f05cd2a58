"""Submissions of several characters."""

from __future__ import annotations

import numpy as np

from controllers.protocol import RankedController
from plasticity_env.observation import Observation, head_column


class Honest(RankedController):
    name = "honest"

    def importance(self, observation: Observation) -> np.ndarray:
        return head_column(observation, "fisher").astype(np.float64)


class Foreign(RankedController):
    name = "foreign"

    def importance(self, observation: Observation) -> np.ndarray:
        return head_column(observation, "taylor")
