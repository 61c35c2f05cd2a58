"""Environments whose model trains between decisions."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from plasticity_env.envs.observation import head_column
from tests.plasticity_env.envs.playing import play, same
from tests.plasticity_env.envs.toy_models import toy_model, toy_text


def test_two_seeded_runs_that_train_are_identical(make_env):
    first, second = (play(make_env(train_steps=2, batch_size=2), 3) for _ in range(2))
    assert same(first, second)


def test_a_forks_state_fits_its_parent(make_env):
    env = make_env(train_steps=2, batch_size=2, learning_rate=3e-3).unwrapped
    env.reset(seed=1)
    keep, prune = np.zeros(16, dtype=int), np.zeros(16, dtype=int)
    prune[:8] = 1
    fork = env.fork()
    fork.step(prune)
    env.step(keep)  # as many changes of weights, other weights
    env.set_state(fork.get_state())
    assert env.step(keep)[4]["loss"] == fork.step(keep)[4]["loss"]


def test_evaluating_another_mask_leaves_a_training_episode_alone(make_env):
    losses = []
    for look in (False, True):
        env = make_env(train_steps=2, batch_size=2).unwrapped
        env.reset(seed=1)
        prune = np.zeros(16, dtype=int)
        prune[:5] = 1
        env.step(prune)
        if look:
            env.evaluate("test", 2, torch.arange(16).view(4, 4) > 11)
        losses.append(env.step(np.zeros(16, dtype=int))[4]["loss"])
    assert losses[0] == losses[1]


def test_the_control_arm_gets_no_credit_for_waiting(make_env):
    env = make_env(train_steps=3, batch_size=4, learning_rate=1e-3)
    env.reset(seed=0)
    losses = []
    for _ in range(3):
        _, reward, _, _, info = env.step(np.zeros(16, dtype=int))
        losses.append(info["loss"])
        assert reward == pytest.approx(0.0, abs=1e-6)  # the unpruned arm learned just as much
    assert abs(losses[0] - losses[-1]) > 1e-3


def test_reset_brings_the_trained_model_back(make_env):
    env = make_env(train_steps=2, batch_size=2)
    _, first = env.reset(seed=0)
    prune = np.zeros(16, dtype=int)
    prune[:4] = 1
    env.step(prune)
    _, again = env.reset(seed=0)
    assert again["loss"] == first["loss"]


def test_grow_only_while_the_model_trains(make_env):
    for train_steps, allowed in ((0, 0), (1, 1)):
        env = make_env(train_steps=train_steps, batch_size=2)
        env.reset(seed=0)
        prune = np.zeros(16, dtype=int)
        prune[4] = 1
        observation, *_ = env.step(prune)
        assert observation["action_mask"][4, 3] == allowed
        assert observation["action_mask"][4, 2] == 1
        grow = np.zeros(16, dtype=int)
        grow[4] = 3
        observation, _, _, _, info = env.step(grow)
        assert info["invalid_actions"] == 1 - allowed
        assert head_column(observation, "active")[4] == allowed


def make_toy(**values):
    """An environment that trains a toy Llama, whose output projections have no biases of their own."""
    more = {
        "calibration_blocks": 2,
        "reward_blocks": 2,
        "max_length": 8,
        "horizon": 4,
        "train_steps": 1,
        "batch_size": 2,
    }
    return gym.make("plasticity/Heads-v1", loaded=toy_model("llama"), text=toy_text(), **{**more, **values}).unwrapped


def test_a_state_with_biases_that_a_repair_added_comes_back():
    env = make_toy(repair="bias")
    env.reset(seed=0)
    env.step(np.array([1, 0, 0, 0]))
    assert any(block.output.bias is not None for block in env.workbench.model.blocks)
    state, fork = env.get_state(), env.fork()
    wanted = env.step(np.array([0, 0, 1, 0]))[1]
    env.set_state(state)
    assert env.step(np.array([0, 0, 1, 0]))[1] == wanted
    assert fork.step(np.array([0, 0, 1, 0]))[1] == wanted
    env.go_on(seed=1)


@pytest.mark.parametrize("init", ["random", "copy", "transfer"])
def test_grown_heads_may_take_over_from_all_that_are_active(init):
    env = make_toy(growth_init=init, max_sparsity=1.0)
    env.reset(seed=0)
    env.step(np.array([0, 1, 0, 1]))
    *_, info = env.step(np.array([1, 3, 1, 3]))
    assert env.model.active.tolist() == [[False, True], [False, True]]
    assert info["active_heads"] == 2
    assert info["invalid_actions"] == 0
