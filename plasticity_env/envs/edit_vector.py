"""plasticity/HeadEdit-v1 for N environments at once."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv
from torch import Tensor

from plasticity_env.envs.actions import whole_numbers
from plasticity_env.envs.head_edit import EDIT_ORDER, HeadEditEnv, edit_mask, edit_vectors
from plasticity_env.envs.observation import Observation
from plasticity_env.envs.vector import HeadsVectorEnv


class HeadEditVectorEnv(HeadsVectorEnv, VectorEnv[Observation, np.ndarray, np.ndarray]):  # skrl reads direct bases only
    """N environments `plasticity/HeadEdit-v1` over one frozen model; see `HeadsVectorEnv` for the arguments.

    ```python
    >>> import gymnasium as gym, plasticity_env
    >>> envs = gym.make_vec("plasticity/HeadEdit-v1", num_envs=16, horizon=4)
    ```
    """

    kind = HeadEditEnv.kind

    def action_masks(self) -> np.ndarray:
        """(N, 1 + 3 * L * U) boolean, True = allowed."""
        return super().action_masks()

    def _single_action_space(self) -> gym.spaces.Space[Any]:
        return gym.spaces.Discrete(1 + len(EDIT_ORDER) * self.head_slots)

    def _action_mask_shape(self) -> tuple[int, ...]:
        return (1 + len(EDIT_ORDER) * self.head_slots,)

    def _show_mask(self, allowed: np.ndarray) -> np.ndarray:
        return edit_mask(allowed)

    def _edits(self, actions: Any) -> tuple[Tensor, np.ndarray]:
        numbers = whole_numbers(actions, (self.num_envs,), len(EDIT_ORDER) * self.head_slots)
        edits, stops = edit_vectors(numbers, self.head_slots)
        return edits.view(self.num_envs, *self._task.shape), stops
