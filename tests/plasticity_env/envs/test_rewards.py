"""Rewards: potentials that telescope, what they are measured on, and each kind's own promise."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity_env.envs.observation import global_value
from tests.conftest import SMALL
from tests.plasticity_env.envs.playing import play


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 1 << 20))
def test_rewards_telescope_to_the_potential_of_the_last_state(seed):
    env = gym.make("plasticity/Heads-v1", **{**SMALL, "residual_signal": False, "obs_signal": False, "flop_price": 2.5})
    trace = play(env, seed)
    first, last = trace[0][2], trace[-1][2]
    paid = sum(reward for _, reward, _ in trace)
    expected = math.log(first["ppl"] / last["ppl"]) - 2.5 * math.log(last["flops"] / first["flops"])
    assert paid == pytest.approx(expected, abs=1e-9)


def test_a_loop_of_prune_and_revive_earns_nothing(make_env):
    env = make_env(horizon=20)
    env.reset(seed=0)
    prune, revive = np.zeros(16, dtype=int), np.zeros(16, dtype=int)
    prune[:5], revive[:5] = 1, 2
    rewards = [env.step(prune if t % 2 == 0 else revive)[1] for t in range(20)]
    assert abs(rewards[0]) > 1e-3
    assert sum(rewards) == pytest.approx(0.0, abs=1e-12)


def test_reward_is_measured_on_the_reward_blocks_with_the_repaired_model(make_env):
    enough = {"max_length": 128, "calibration_blocks": 16}  # tokens for 128 inputs of each projection
    env = make_env(repair="least_squares", **enough).unwrapped
    env.reset(seed=0)
    prune = np.zeros(16, dtype=int)
    prune[:6] = 1
    *_, info = env.step(prune)
    ids = env.workbench.blocks("reward", env.get_state()["episode"].reward)
    with torch.no_grad():
        loss = float(env.workbench.model(ids, labels=ids).loss)
    assert info["loss"] == pytest.approx(loss, rel=1e-5)
    bare = make_env(repair="none", **enough).unwrapped
    bare.reset(seed=0)
    *_, without = bare.step(prune)
    assert info["loss"] < without["loss"]  # repair helps, and reached the measured model


def test_budget_forbids_overshoot_and_pays_for_reaching_it(make_env):
    env = make_env(reward="budget", flop_budget=0.9, horizon=30)
    observation, _ = env.reset(seed=0)
    target = global_value(observation, "budget")
    paid = 0.0
    for _ in range(30):
        edits = np.where(observation["action_mask"][:, 1] == 1, 1, 0)
        observation, reward, _, _, info = env.step(edits)
        paid += reward
        assert info["flops"] >= target * env.unwrapped.dense_flops
    assert info["flops"] < 1.03 * target * env.unwrapped.dense_flops
    assert paid > 0


def test_kl_reward_is_zero_for_the_dense_model_and_negative_for_noise(make_env):
    env = make_env(reward="kl")
    _, info = env.reset(seed=0)
    assert info["reward_terms"]["quality"] == pytest.approx(0.0, abs=1e-6)
    *_, info = env.step(np.ones(16, dtype=int))
    assert info["reward_terms"]["quality"] < -0.1


def test_forks_under_the_kl_reward_keep_their_own_teachers(make_env):
    env = make_env(reward="kl", reward_blocks=2).unwrapped
    prune = np.zeros(16, dtype=int)
    prune[:6] = 1
    env.reset(options={"calibration": [0, 1, 2, 3], "reward": [0, 1]})
    expected = env.step(prune)[4]["reward_terms"]["quality"]
    env.reset(options={"calibration": [0, 1, 2, 3], "reward": [0, 1]})
    env.workbench.memo.clear()
    for first in (2, 4, 6):  # other episodes on the shared model
        env.fork().reset(options={"reward": [first, first + 1]})
    env.workbench.memo.clear()
    assert env.step(prune)[4]["reward_terms"]["quality"] == pytest.approx(expected, rel=1e-6)


def test_latency_reward_pays_for_measured_time_once_a_mask(make_env):
    env = make_env(reward="latency", reward_blocks=2, flop_price=4.0)
    env.reset(seed=0)
    prune = np.zeros(16, dtype=int)
    prune[:6] = 1
    _, paid, _, _, info = env.step(prune)
    kept = env.unwrapped.workbench.time_kept(torch.from_numpy(prune == 0).view(4, 4))
    assert kept > 0
    assert info["reward_terms"]["cost"] == pytest.approx(-4 * math.log(kept))
    _, back, *_ = env.step(prune * 2)
    assert paid + back == pytest.approx(0.0, abs=1e-6)
