"""The environments as Gymnasium, Stable-Baselines3 and their vector environments see them."""

from __future__ import annotations

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from plasticity_env import controllers, reward_names
from plasticity_env.envs.observation import GLOBAL_FEATURES
from plasticity_env.envs.rewards import find_reward
from tests.conftest import ALL_SIGNALS, SMALL
from tests.plasticity_env.envs.playing import IDS, play, same


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("mode", ["adaptive", "compressed"])
def test_gymnasiums_checker_passes_with_warnings_as_errors(make_env, env_id, mode):
    """Slow: the checker resets and steps many times, with all signals in one mode."""
    signals = ALL_SIGNALS if mode == "adaptive" else {}
    env = make_env(env_id, mode=mode, render_mode="rgb_array", **signals)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)


@pytest.mark.parametrize("env_id", IDS)
def test_stable_baselines3s_checker_passes(make_env, env_id):
    from stable_baselines3.common.env_checker import check_env as check

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=r".*unconventional shape.*")  # tokens are two-dimensional
        check(make_env(env_id).unwrapped)


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("reward", [name for name in reward_names() if find_reward(name).deterministic])
def test_two_seeded_runs_are_identical(make_env, env_id, reward):
    signals = ALL_SIGNALS if reward == "ppl_per_flop" else {}
    first, second = (play(make_env(env_id, reward=reward, flop_price=(1.0, 16.0), **signals), 7) for _ in range(2))
    assert same(first, second)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_vector_environments_work(mode):
    envs = gym.make_vec("plasticity/Heads-v1", num_envs=2, vectorization_mode=mode, **SMALL)
    observations, _ = envs.reset(seed=[3, 4])
    assert observations["heads"].shape[:2] == (2, 16)
    single = gym.make("plasticity/Heads-v1", **SMALL)
    alone, _ = single.reset(seed=4)
    assert np.allclose(observations["heads"][1], alone["heads"], atol=1e-5)
    _, rewards, *_ = envs.step(np.zeros((2, 16), dtype=np.int64))
    assert rewards.shape == (2,)
    envs.close()


def test_mask_helpers_fit_gymnasium_and_sb3(make_env):
    for env_id in IDS:
        env = make_env(env_id)
        observation, _ = env.reset(seed=0)
        sample = env.action_space.sample(mask=controllers.sample_mask(observation))
        assert env.action_space.contains(sample)
        flat = controllers.flat_mask(observation)
        assert flat.dtype == bool
        assert (flat == env.unwrapped.action_masks()).all()


def test_features_have_finite_bounds_and_names(make_env):
    env = make_env()
    observation, _ = env.reset(seed=0)
    assert np.isfinite(env.observation_space["heads"].low).all()
    assert len(observation["globals"]) == len(GLOBAL_FEATURES)


def test_rendering(make_env):
    env = make_env(render_mode="ansi")
    env.reset(seed=0)
    prune = np.zeros(16, dtype=int)
    prune[5] = 1
    env.step(prune)
    rows = env.render().splitlines()
    assert len(rows) == 5
    assert rows[2].split()[2:6] == ["#", "x", "#", "#"]
    env = make_env(render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    env.step(prune)
    assert before.dtype == np.uint8
    assert before.shape == env.render().shape
    assert (before != env.render()).any()


def test_human_rendering_opens_a_window(make_env):
    import pygame

    env = make_env(render_mode="human")
    env.reset(seed=0)
    assert pygame.display.get_surface().get_size()[0] > 100
    env.close()
    assert not pygame.display.get_init()
