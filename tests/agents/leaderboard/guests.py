"""Submissions of several characters."""

from __future__ import annotations

from typing import cast

import numpy as np

from plasticity_env import controllers
from plasticity_env.agents.studies.ablations import FirstLook
from plasticity_env.controllers import ANNController, Controller
from plasticity_env.controllers.base import RankedController
from plasticity_env.envs.observation import Observation, head_column


class Honest(RankedController):
    name = "honest"

    def importance(self, observation: Observation) -> np.ndarray:
        return head_column(observation, "fisher").astype(np.float64)


def shipped() -> Controller:
    """The shipped network behind code of one's own."""
    return FirstLook(cast(ANNController, controllers.make("ann")))


class Foreign(RankedController):
    name = "foreign"

    def importance(self, observation: Observation) -> np.ndarray:
        return head_column(observation, "taylor")
