"""An episode: what reset draws, what a step measures, forks and states."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from plasticity_env import InputError, measure
from plasticity_env.envs.episode import draw_episode
from plasticity_env.envs.observation import global_value, head_column
from tests.plasticity_env.envs.playing import same


def test_reset_options_fix_the_draws(make_env):
    env = make_env(flop_price=(1.0, 16.0))
    options = {"flop_price": 3.0, "calibration": [5, 6, 7, 8], "reward": [1, 2, 3, 4]}
    observation, _ = env.reset(options=options)
    assert global_value(observation, "flop_price") == 3.0
    assert env.unwrapped.get_state()["episode"].calibration == (5, 6, 7, 8)


def test_prices_are_drawn_log_uniformly(make_env):
    env = make_env(flop_price=(1.0, 16.0)).unwrapped
    text, random = env.workbench.text, np.random.default_rng(0)
    prices = [draw_episode(env.settings, text, random, {}).price for _ in range(400)]
    assert 0.9 < np.mean(np.log(prices)) / math.log(4.0) < 1.1
    assert min(prices) >= 1
    assert max(prices) <= 16


def test_a_fixed_price_changes_nothing_else_about_a_seed(make_env):
    drawn = []
    for options in ({}, {"flop_price": 2.0}):
        env = make_env(flop_price=(1.0, 16.0)).unwrapped
        env.reset(seed=5, options=options)
        episode = env.get_state()["episode"]
        drawn.append((episode.calibration, episode.reward))
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("train_steps", [0, 2])
def test_forks_go_their_own_way_and_states_come_back(make_env, train_steps):
    env = make_env(train_steps=train_steps, batch_size=2).unwrapped
    env.reset(seed=1)
    prune = np.zeros(16, dtype=int)
    prune[3] = 1
    env.step(prune)
    fork, state = env.fork(), env.get_state()
    more = np.zeros(16, dtype=int)
    more[8:12] = 1
    ours = env.step(more)
    env.set_state(state)
    again = env.step(more)
    assert same(ours[:4], again[:4])
    other = fork.step(np.zeros(16, dtype=int))
    assert other[4]["active_heads"] == 15
    fork_reference = env.fork()
    assert same(fork_reference.get_state()["episode"].active.numpy(), env.get_state()["episode"].active.numpy())


def test_forks_of_a_frozen_model_share_its_weights(make_env):
    env = make_env().unwrapped
    env.reset(seed=0)
    assert env.fork().workbench.model is env.workbench.model


def test_the_episodes_model_is_what_was_paid_for(make_env):
    env = make_env().unwrapped
    prune = np.zeros(16, dtype=int)
    prune[:6] = 1
    for _ in range(2):  # the second time the memo knows the answer
        env.reset(options={"calibration": [0, 1, 2, 3], "reward": [0, 1, 2, 3]})
        info = env.step(prune)[4]
        ids = env.workbench.blocks("reward", (0, 1, 2, 3))
        with torch.no_grad():
            assert float(env.model(ids, labels=ids).loss) == pytest.approx(info["loss"], rel=1e-5)


def test_the_same_mask_is_measured_once(make_env):
    env = make_env(horizon=10).unwrapped
    env.reset(seed=0)
    passes = env.workbench.memo.misses
    keep = np.zeros(16, dtype=int)
    for _ in range(4):
        env.step(keep)
    assert env.workbench.memo.misses == passes
    keep[2] = 1
    env.step(keep)
    assert env.workbench.memo.misses == passes + 1


def test_a_preview_is_what_the_step_leads_to(make_env):
    env = make_env(max_sparsity=0.3).unwrapped
    env.reset(seed=0)
    action = np.ones(16, dtype=int)
    active = env.preview(action)
    loss = env.evaluate("reward", 4, active)
    env.step(action)
    assert torch.equal(env.workbench.model.active, active)
    assert env.evaluate("reward", 4) == pytest.approx(loss)


def test_observed_signals_are_those_of_the_model(make_env):
    env = make_env(repair="none", obs_signal=True).unwrapped
    env.reset(seed=2)
    prune = np.zeros(16, dtype=int)
    prune[[1, 6, 11]] = 1
    observation, *_ = env.step(prune)
    calibration = env.workbench.blocks("calibration", env.get_state()["episode"].calibration)
    signals = measure(env.workbench.model, calibration, batch_size=3)
    for name in ("entropy", "gradient", "fisher", "magnitude", "activation", "obs", "revive"):
        expected = getattr(signals, name).flatten().numpy()
        assert np.allclose(head_column(observation, name), expected, rtol=1e-3, atol=1e-7), name
    assert (head_column(observation, "active") == (prune != 1)).all()


def test_a_model_that_diverged_is_an_error_not_a_number(make_env):
    env = make_env().unwrapped
    env.reset(seed=0)
    with torch.no_grad():
        env.workbench.model.blocks[1].output_slice(0).data.fill_(float("nan"))
    with pytest.raises(InputError, match="not finite"):
        env.step(np.eye(16, dtype=int)[0])


@pytest.mark.parametrize("repair", ["none", "least_squares"])
def test_a_model_that_is_broken_from_the_start_is_one_too(repair, make_env):
    env = make_env(repair=repair).unwrapped
    with torch.no_grad():
        env.workbench.model.blocks[1].output_slice(0).data.fill_(float("nan"))
    with pytest.raises(InputError, match="not finite"):
        env.reset(seed=0)
