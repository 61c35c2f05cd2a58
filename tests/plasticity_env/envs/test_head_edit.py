"""HeadEdit: one edit a step."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest

from plasticity_env.envs.observation import head_column


def test_head_edit_masks_are_exact(make_env):
    env = make_env("plasticity/HeadEdit-v1", horizon=40, max_sparsity=0.3, min_heads_per_layer=3)
    observation, _ = env.reset(seed=0)
    random = np.random.default_rng(0)
    for _ in range(40):
        allowed = np.flatnonzero(observation["action_mask"])[1:]
        before = head_column(observation, "active").copy()
        observation, _, _, _, info = env.step(int(random.choice(allowed)))
        assert info["invalid_actions"] == 0
        assert (head_column(observation, "active") != before).sum() == 1
        layers = head_column(observation, "active").reshape(4, 4).sum(1)
        assert layers.min() >= 3
        assert info["active_heads"] >= 16 - math.floor(0.3 * 16)
    assert env.unwrapped.action_masks().shape == (1 + 3 * 16,)


def test_head_edit_stops(make_env):
    env = make_env("plasticity/HeadEdit-v1")
    env.reset(seed=0)
    _, reward, terminated, truncated, _ = env.step(0)
    assert (reward, terminated, truncated) == (0.0, True, False)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(0)
