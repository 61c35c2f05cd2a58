"""Weights that somebody else changed: measured anew or refused, never remembered. The caller's torch modes change nothing."""

from __future__ import annotations

import contextlib

import gymnasium as gym
import numpy as np
import pytest
import torch

from plasticity_env import InputError, load_model
from plasticity_env.envs import training_env

SMALL = {"model_name": "bard-gpt2-4x4", "calibration_blocks": 2, "reward_blocks": 2, "max_length": 32, "horizon": 3}
ONE_HEAD = np.eye(16, dtype=int)
PRUNE_FIRST, PRUNE_SECOND = ONE_HEAD[:2]
NEAR = 1e-6


@pytest.fixture
def make(small_text):
    def go(**settings):
        return gym.make("plasticity/Heads-v1", **{**SMALL, "text": small_text, **settings})

    return go


@pytest.fixture
def make_vector(small_text):
    def go(**settings):
        settings = {**SMALL, "text": small_text, "vectorization_mode": "vector_entry_point", **settings}
        return gym.make_vec("plasticity/Heads-v1", num_envs=2, **settings)

    return go


def disturb(model):
    """What a caller's own optimizer does."""
    with torch.no_grad():
        for parameter in model.model.transformer.h[1].mlp.parameters():
            parameter.mul_(1.3)


def test_a_frozen_environment_goes_on_with_changed_weights_after_a_reset(make):
    env = make()
    before = env.reset(seed=0)[1]["loss"]
    remembered = env.unwrapped.evaluate("test", blocks=2)
    disturb(env.unwrapped.workbench.model)
    assert abs(env.unwrapped.evaluate("test", blocks=2) - remembered) > 1e-3
    with pytest.raises(InputError, match="weights changed since reset"):
        env.step(PRUNE_FIRST)
    after = env.reset(seed=0)[1]["loss"]
    assert abs(after - before) > 1e-3
    reward = env.step(PRUNE_FIRST)[1]
    fresh = load_model("bard-gpt2-4x4")
    disturb(fresh.model)
    other = make(loaded=fresh)
    assert other.reset(seed=0)[1]["loss"] == pytest.approx(after, abs=NEAR)
    assert other.step(PRUNE_FIRST)[1] == pytest.approx(reward, abs=1e-5)


def test_loaded_and_declared_weights_count_as_changed(make):
    env = make()
    env.reset(seed=0)
    model = env.unwrapped.workbench.model
    model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()})
    with pytest.raises(InputError, match="weights changed since reset"):
        env.step(PRUNE_FIRST)
    env.reset(seed=0)
    model.weights_changed()
    with pytest.raises(InputError, match="weights changed since reset"):
        env.step(PRUNE_FIRST)


def test_a_vector_environment_notices_too(make_vector):
    envs = make_vector()
    before = envs.reset(seed=0)[1]["loss"]
    disturb(envs.workbench.model)
    with pytest.raises(InputError, match="weights changed since reset"):
        envs.step(np.stack([PRUNE_FIRST, PRUNE_SECOND]))
    assert float(np.abs(envs.reset(seed=0)[1]["loss"] - before).min()) > 1e-3


def test_one_model_does_not_train_in_two_environments(make):
    loaded = load_model("bard-gpt2-4x4")
    first, second = make(loaded=loaded, train_steps=1), make(loaded=loaded, train_steps=1)
    first.reset(seed=0)
    first.step(PRUNE_FIRST)
    with pytest.raises(InputError, match="an environment that trains rests on its own"):
        second.reset(seed=0)


def test_two_environments_on_one_frozen_model_pay_what_each_would_alone(make):
    """Both prune the same head, so that its projection stays repaired, but repair it from calibration text of their own."""

    def play(first, second):
        for seed, env in enumerate((first, second)):
            env.reset(seed=seed)
        rewards = [env.step(action)[1] for action in ONE_HEAD[[0, 5, 9]] for env in (first, second)]
        return rewards + [env.unwrapped.evaluate("test", blocks=2) for env in (first, second)]

    loaded = load_model("bard-gpt2-4x4")
    alone = play(make(), make())
    assert play(make(loaded=loaded), make(loaded=loaded)) == pytest.approx(alone, abs=NEAR)


def test_a_vector_environment_beside_a_single_one_pays_what_it_would_alone(make, make_vector):
    loaded = load_model("bard-gpt2-4x4")
    single = make(loaded=loaded)
    single.reset(seed=0)
    single.step(PRUNE_FIRST)  # its mask and repair are on the model now
    rewards = []
    for envs in (make_vector(loaded=loaded), make_vector()):
        envs.reset(seed=3)
        rewards.append(envs.step(np.stack([PRUNE_SECOND, PRUNE_FIRST]))[1])
    np.testing.assert_allclose(rewards[0], rewards[1], atol=NEAR)


MODES = {
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "grad": contextlib.nullcontext,
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("train_steps", [0, 1])
def test_the_callers_mode_changes_nothing(make, mode, train_steps):
    def play():
        env = make(train_steps=train_steps)
        losses = [env.reset(seed=0)[1]["loss"]]
        losses += [env.step(action)[4]["loss"] for action in (PRUNE_FIRST, PRUNE_SECOND)]
        return [*losses, env.unwrapped.evaluate("test", blocks=2)]

    with torch.no_grad():
        wanted = play()
    with MODES[mode]():
        assert play() == pytest.approx(wanted, abs=NEAR)


@pytest.mark.parametrize("mode", MODES)
def test_the_callers_mode_changes_nothing_in_a_vector_environment(make_vector, mode):
    def play():
        envs = make_vector()
        losses = [envs.reset(seed=0)[1]["loss"], envs.step(np.stack([PRUNE_FIRST, PRUNE_SECOND]))[4]["loss"]]
        return np.concatenate(losses)

    with torch.no_grad():
        wanted = play()
    with MODES[mode]():
        np.testing.assert_allclose(play(), wanted, atol=NEAR)


def test_a_step_that_fails_leaves_no_edit_in_the_model(make, monkeypatch):
    rewards = []
    for fails in (False, True):
        env = make(train_steps=1)
        env.reset(seed=0)
        if fails:
            with monkeypatch.context() as patch:
                patch.setattr(env.unwrapped.workbench, "measure", lambda requests: 1 / 0)
                with pytest.raises(ZeroDivisionError):
                    env.step(PRUNE_FIRST)
        rewards.append(env.step(PRUNE_SECOND)[1])
    assert rewards[1] == pytest.approx(rewards[0], abs=NEAR)


def test_an_evaluation_that_fails_leaves_no_mask_in_the_model(make, monkeypatch):
    rewards = []
    for fails in (False, True):
        env = make(train_steps=1)
        env.reset(seed=0)
        env.step(PRUNE_FIRST)
        bench, state = env.unwrapped.workbench, env.unwrapped._state

        def failing(*_, bench=bench, state=state):
            bench.install(torch.ones(4, 4, dtype=torch.bool), state.fitted)
            raise ZeroDivisionError

        if fails:
            with monkeypatch.context() as patch:
                patch.setattr(bench, "split_loss", failing)
                with pytest.raises(ZeroDivisionError):
                    env.unwrapped.evaluate("test", blocks=1)
        rewards.append(env.step(PRUNE_SECOND)[1])
    assert rewards[1] == pytest.approx(rewards[0], abs=NEAR)


@pytest.mark.parametrize("where", ["measure", "control_arm"])
def test_after_a_reset_that_fails_an_episode_begins_anew(make, monkeypatch, where):
    env = make(train_steps=1)
    wanted = env.reset(seed=0)[1]["loss"], env.step(PRUNE_FIRST)[1]

    def failing(tuner, *_):
        tuner.run(1)
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        if where == "measure":
            patch.setattr(env.unwrapped.workbench, "measure", lambda requests: 1 / 0)
        else:
            patch.setattr(training_env, "control_arm", failing)
        with pytest.raises(ZeroDivisionError):
            env.reset(seed=1)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(PRUNE_SECOND)
    found = env.reset(seed=0)[1]["loss"], env.step(PRUNE_FIRST)[1]
    assert found == pytest.approx(wanted, abs=NEAR)


@pytest.mark.parametrize("blocks", [0, -1, "2", 1.5, True])
def test_an_evaluation_of_no_blocks_is_refused(make, blocks):
    env = make()
    env.reset(seed=0)
    with pytest.raises(InputError, match="blocks must be a whole number of at least 1"):
        env.unwrapped.evaluate("test", blocks=blocks)


class TestTargets:
    @pytest.mark.parametrize(
        ("env_id", "options", "message"),
        [
            (
                "HeadRank",
                {"pruned_share": 0.5, "min_heads_per_layer": 3},
                r"pruned_share 0.5 cannot be .*at most 0.250",
            ),
            ("HeadRank", {"pruned_share": (0.1, 0.6), "min_heads_per_layer": 2}, "cannot be reached"),
            ("Heads", {"reward": "budget", "flop_budget": 0.05}, r"flop_budget 0.05 cannot be reached"),
        ],
    )
    def test_a_target_that_the_limits_forbid_is_refused_at_construction(self, env_id, options, message):
        with pytest.raises(InputError, match=message):
            gym.make(f"plasticity/{env_id}-v1", **SMALL, **options)

    def test_one_that_a_reset_asks_for_is_refused_there(self):
        env = gym.make("plasticity/HeadRank-v1", **SMALL, pruned_share=0.2, min_heads_per_layer=3)
        with pytest.raises(InputError, match="cannot be reached"):
            env.reset(seed=0, options={"pruned_share": 0.5})

    def test_a_ranking_reaches_its_target_under_the_limits(self):
        env = gym.make("plasticity/HeadRank-v1", **SMALL, pruned_share=0.25, min_heads_per_layer=3)
        env.reset(seed=0)
        scores, info = np.zeros(16, dtype=np.float32), {}
        scores[:4] = -1.0  # all heads of the first layer would go first
        for _ in range(3):
            *_, info = env.step(scores)
        assert info["active_heads"] == 12
        assert env.unwrapped.model.active.sum(1).tolist() == [3, 3, 3, 3]
