"""The environments as Gymnasium, Stable-Baselines3 and a careful user see them."""

from __future__ import annotations

import json
import math
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity_env import EpisodeRecord, InputError, controllers, measure, reward_names, validate
from plasticity_env.envs.edits import Limits, allowed_edits, resolve
from plasticity_env.envs.episode import draw_episode
from plasticity_env.envs.observation import GLOBAL_FEATURES, global_value, head_column
from plasticity_env.envs.rewards import find_reward
from plasticity_env.model.flops import CostTable
from plasticity_env.model.modes import PruningMode
from tests.conftest import SMALL

IDS = ["plasticity/Heads-v1", "plasticity/HeadEdit-v1"]


def play(env, seed, steps=3):
    random = np.random.default_rng(seed)
    observation, info = env.reset(seed=seed)
    trace = [(observation, 0.0, info)]
    for _ in range(steps):
        env.action_space.seed(int(random.integers(1 << 30)))
        action = env.action_space.sample(mask=controllers.sample_mask(observation))
        observation, reward, terminated, _, info = env.step(action)
        trace.append((observation, reward, info))
        if terminated:
            break
    return trace


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return np.array_equal(a, b)


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("mode", ["adaptive", "compressed"])
def test_gymnasiums_checker_passes_with_warnings_as_errors(make_env, env_id, mode):
    env = make_env(env_id, mode=mode, render_mode="rgb_array")
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
    first, second = (play(make_env(env_id, reward=reward, flop_price=(1.0, 16.0)), 7) for _ in range(2))
    assert same(first, second)


def test_two_seeded_runs_that_train_are_identical(make_env):
    first, second = (play(make_env(train_steps=2, batch_size=2), 3) for _ in range(2))
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


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 1 << 20))
def test_rewards_telescope_to_the_potential_of_the_last_state(seed):
    env = gym.make("plasticity/Heads-v1", **{**SMALL, "flop_price": 2.5})
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


@pytest.mark.parametrize("env_id", IDS)
def test_a_record_replays_to_the_same_rewards_and_a_forged_one_does_not(make_env, env_id, tmp_path):
    env = make_env(env_id, flop_price=(1.0, 16.0))
    play(env, 5)
    env.unwrapped.episode_record().save(tmp_path / "episode.json")
    record = EpisodeRecord.load(tmp_path / "episode.json")
    assert validate(record) == pytest.approx(record.rewards, rel=1e-5)
    forged = EpisodeRecord(**{**record.__dict__, "rewards": (record.rewards[0] + 0.01, *record.rewards[1:])})
    with pytest.raises(InputError, match="step 0 of the record claims"):
        validate(forged)
    for claim in (float("inf"), float("nan")):
        forged = EpisodeRecord(**{**record.__dict__, "rewards": (claim, *record.rewards[1:])})
        with pytest.raises(InputError, match=f"step 0 of the record claims a reward of {claim}"):
            validate(forged)
    actions = len(record.actions)
    with pytest.raises(InputError, match=f"{actions} actions and {actions - 1} rewards"):
        validate(EpisodeRecord(**{**record.__dict__, "rewards": record.rewards[1:]}))


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


def test_a_fixed_price_changes_nothing_else_about_a_seed(make_env):
    drawn = []
    for options in ({}, {"flop_price": 2.0}):
        env = make_env(flop_price=(1.0, 16.0)).unwrapped
        env.reset(seed=5, options=options)
        episode = env.get_state()["episode"]
        drawn.append((episode.calibration, episode.reward))
    assert drawn[0] == drawn[1]


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


def test_forks_of_a_frozen_model_share_its_weights(make_env):
    env = make_env().unwrapped
    env.reset(seed=0)
    assert env.fork().workbench.model is env.workbench.model


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
    env = make_env(repair="none").unwrapped
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


def test_the_control_arm_gets_no_credit_for_waiting(make_env):
    env = make_env(train_steps=3, batch_size=4, learning_rate=1e-3)
    env.reset(seed=0)
    losses = []
    for _ in range(3):
        _, reward, _, _, info = env.step(np.zeros(16, dtype=int))
        losses.append(info["loss"])
        assert reward == pytest.approx(0.0, abs=1e-6)  # the unpruned arm learned just as much
    assert losses[0] != losses[-1]


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


@settings(max_examples=150, deadline=None)
@given(
    active=st.lists(st.booleans(), min_size=12, max_size=12),
    edits=st.lists(st.integers(0, 3), min_size=12, max_size=12),
    minimum=st.integers(0, 3),
    most=st.integers(0, 11),
    share=st.one_of(st.none(), st.floats(0.5, 1.0)),
    mode=st.sampled_from(list(PruningMode)),
    trains=st.booleans(),
    seed=st.integers(0, 99),
)
def test_resolved_edits_break_no_limit(active, edits, minimum, most, share, mode, trains, seed):
    active = torch.tensor(active).view(3, 4)
    costs = CostTable(100.0, 5.0, 3.0, 2)
    dense = costs.total(torch.ones(3, 4, dtype=torch.bool))
    limits = Limits(mode, trains, minimum, most, None if share is None else share * dense)
    fisher = torch.rand(3, 4, generator=torch.Generator().manual_seed(seed))
    edits = torch.tensor(edits).view(3, 4)
    masks, invalid = resolve(active, edits, limits, costs, fisher)
    after = (active & ~masks.prune) | masks.revive | masks.grow
    lost = active & ~after
    if lost.any():
        assert (after.sum(1) >= minimum)[lost.any(1)].all()
        assert (~after).sum() <= max(most, int((~active).sum()))
        assert limits.min_flops is None or costs.total(after) >= limits.min_flops - 1e-9
    if mode is PruningMode.COMPRESSED:
        assert not masks.revive.any()
        assert not masks.grow.any()
    assert not (masks.grow.any() and not trains)
    done = int(masks.prune.sum() + masks.revive.sum() + masks.grow.sum())
    assert done + invalid == int((edits != 0).sum())
    kept = (edits == 1) & ~masks.prune & allowed_edits(active, limits, costs)[..., 1]
    if kept.any() and masks.prune.any() and minimum == 0:  # what was spared mattered more than what went
        assert fisher[kept].min() >= fisher[masks.prune].max() or share is not None


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


def test_mask_helpers_fit_gymnasium_and_sb3(make_env):
    for env_id in IDS:
        env = make_env(env_id)
        observation, _ = env.reset(seed=0)
        sample = env.action_space.sample(mask=controllers.sample_mask(observation))
        assert env.action_space.contains(sample)
        flat = controllers.flat_mask(observation)
        assert flat.dtype == bool
        assert (flat == env.unwrapped.action_masks()).all()


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


def test_numpys_numbers_are_plain_ones_in_the_settings(make_env):
    settings = make_env(flop_price=np.float32(4), batch_size=np.int64(2), obs_signal=np.bool_(False)).unwrapped.settings
    assert json.loads(json.dumps(settings.kwargs()))["flop_price"] == 4.0
    assert settings.batch_size == 2
    assert settings.obs_signal is False


def test_settings_are_json_able(make_env):
    env = make_env(flop_price=(1.0, 16.0)).unwrapped
    assert json.loads(json.dumps(env.settings.kwargs())) == env.settings.kwargs()


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


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"mode": "both"}, "unknown mode 'both'"),
        ({"reward": "ppl_per_flops"}, r"did you mean 'ppl_per_flop'"),
        ({"repair": "magic"}, "unknown repair"),
        ({"flop_price": (4, 1)}, "flop_price must"),
        ({"flop_price": -1}, "flop_price must"),
        ({"horizon": 0}, "horizon must be a whole number"),
        ({"max_sparsity": 1.5}, "max_sparsity must"),
        ({"max_sparsity": "half"}, "max_sparsity must be a number"),
        ({"learning_rate": "fast"}, "learning_rate must be a number"),
        ({"learning_rate": 0}, "learning_rate must be positive"),
        ({"obs_signal": "no"}, "obs_signal must be True or False"),
        ({"repair": ["none"]}, "repair must be a name"),
        ({"calibration_blocks": 10**6}, "more than the"),
        ({"max_length": 4096}, "exceeds the"),
        ({"min_heads_per_layer": 5}, "exceeds the 4 heads"),
        ({"devise": "cpu"}, "unknown environment argument"),
        ({"model_name": "nobody/nothing"}, "embedded"),
    ],
)
def test_bad_arguments_are_one_clear_sentence(make_env, kwargs, message):
    with pytest.raises(InputError, match=message):
        make_env(**kwargs)


def test_bad_actions_and_options_are_refused(make_env):
    env = make_env().unwrapped
    env.reset(seed=0)
    with pytest.raises(InputError, match="16 whole numbers from 0 to 3"):
        env.step(np.full(16, 4))
    with pytest.raises(InputError, match="unknown reset option"):
        env.reset(options={"price": 1})
    for blocks in ([10**9], [-1], [0.5], [], "all", 3):
        with pytest.raises(InputError, match="numbers from 0"):
            env.reset(options={"reward": blocks})
    with pytest.raises(InputError, match="stream must be a whole number"):
        make_env(train_steps=1).unwrapped.reset(options={"stream": -1})
    env.reset(options={"flop_price": np.float32(4)})


def test_features_have_finite_bounds_and_names(make_env):
    env = make_env()
    observation, _ = env.reset(seed=0)
    assert np.isfinite(env.observation_space["heads"].low).all()
    assert len(observation["globals"]) == len(GLOBAL_FEATURES)
