"""plasticity/HeadRank-v1 for N environments at once."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from plasticity_env.envs.head_rank import HeadRankEnv, rank_mask
from plasticity_env.envs.observation import Observation
from plasticity_env.envs.ranking import BOUND, rank_edits, read_scores
from plasticity_env.envs.vector import HeadsVectorEnv


class HeadRankVectorEnv(HeadsVectorEnv, VectorEnv[Observation, np.ndarray, np.ndarray]):  # skrl reads direct bases only
    """N environments `plasticity/HeadRank-v1` over one frozen model; see `HeadsVectorEnv` for the arguments.

    ```python
    >>> import gymnasium as gym, plasticity_env
    >>> envs = gym.make_vec("plasticity/HeadRank-v1", num_envs=16, horizon=4)
    ```
    """

    kind = HeadRankEnv.kind
    default_share = HeadRankEnv.default_share

    def action_masks(self) -> np.ndarray:
        """(N, L * U) boolean, True where a score counts."""
        return super().action_masks()

    def _single_action_space(self) -> gym.spaces.Space[Any]:
        return gym.spaces.Box(-BOUND, BOUND, (self.head_slots,), dtype=np.float32)

    def _action_mask_shape(self) -> tuple[int, ...]:
        return (self.head_slots,)

    def _show_mask(self, allowed: np.ndarray) -> np.ndarray:
        return rank_mask(allowed)

    def _edits(self, actions: Any) -> tuple[Tensor, None]:
        scores = read_scores(actions, (self.num_envs, self.head_slots)).view(self.num_envs, *self._task.shape)
        states = self._episodes.states
        edits = [rank_edits(each, state, self._task) for each, state in zip(scores, states, strict=True)]
        return torch.stack(edits), None
