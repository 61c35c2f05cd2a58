"""plasticity/HeadRank-v1: scores in, the lowest-ranked share out."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from plasticity_env import InputError, controllers, validate
from plasticity_env.envs.observation import global_value, head_column
from tests.conftest import ALL_SIGNALS

SMALL = {"model_name": "bard-gpt2-4x4", "calibration_blocks": 2, "reward_blocks": 2, "max_length": 32, "batch_size": 2}


def make(**settings):
    settings = {**SMALL, "obs_signal": False, "residual_signal": False, "flop_price": 4.0, **settings}
    return gym.make("plasticity/HeadRank-v1", disable_env_checker=True, **settings)


def pruned(env):
    return ~env.unwrapped.model.active.flatten().numpy()


def test_passes_gymnasiums_checker():
    check_env(make(horizon=2, **ALL_SIGNALS).unwrapped, skip_render_check=True)


@pytest.mark.parametrize("repair", ["none", "least_squares"])
def test_the_lowest_scores_go_up_to_the_due_share(repair):
    env = make(horizon=3, pruned_share=0.5, repair=repair)
    observation, _ = env.reset(seed=0)
    random = np.random.default_rng(0)
    for done in (1, 2, 3):
        due = round(16 * 0.5 * done / 3)
        assert global_value(observation, "due_share") == pytest.approx(0.5 * done / 3)
        assert global_value(observation, "target_share") == pytest.approx(0.5)
        scores = random.uniform(-1, 1, 16).astype(np.float32)
        observation, _, terminated, _, info = env.step(scores)
        expected = np.zeros(16, dtype=bool)
        expected[np.argsort(scores)[:due]] = True  # whatever was pruned before: a head that now scores high is revived
        assert (pruned(env) == expected).all()
        assert info["active_heads"] == 16 - due
        assert info["invalid_actions"] == 0
        assert (head_column(observation, "active") == ~expected).all()
    assert terminated


def test_compressed_mode_never_revives():
    env = make(horizon=2, pruned_share=0.5, mode="compressed")
    observation, _ = env.reset(seed=0)
    scores = np.linspace(-1, 1, 16, dtype=np.float32)
    observation, *_ = env.step(scores)
    assert (pruned(env) == (np.arange(16) < 4)).all()
    assert (observation["action_mask"] == (np.arange(16) >= 4)).all()
    env.step(-scores)
    assert (pruned(env) == ((np.arange(16) < 4) | (np.arange(16) >= 12))).all()


def test_only_the_order_counts():
    masks = []
    for change in (lambda s: s, lambda s: 1e3 * s**3 - 7):
        env = make(horizon=1, pruned_share=0.4)
        env.reset(seed=3)
        env.step(change(np.random.default_rng(1).uniform(-1, 1, 16)))
        masks.append(pruned(env))
    assert (masks[0] == masks[1]).all()


def test_a_share_of_flops_where_mlp_blocks_are_units():
    env = make(horizon=1, pruned_share=0.4, units="heads+mlp", mlp_blocks=4)
    env.reset(seed=0)
    base = env.unwrapped
    costs = base._task.unit_costs.flatten().numpy()
    scores = np.random.default_rng(2).uniform(-1, 1, len(costs)).astype(np.float32)
    env.step(scores)
    order = np.argsort(scores)
    expected = np.zeros(len(costs), dtype=bool)
    expected[order[np.cumsum(costs[order]) <= 0.4 * costs.sum()]] = True
    assert (pruned(env) == expected).all()
    assert 0.25 < costs[expected].sum() / costs.sum() <= 0.4


@pytest.mark.parametrize("name", ["fisher", "residual_fisher", "entropy_low"])
def test_a_score_prunes_what_it_prunes_on_heads(name):
    signals = {"obs_signal": False, "residual_signal": name == "residual_fisher"}
    rank = make(horizon=3, pruned_share=0.5, **signals)
    observation, _ = rank.reset(seed=4)
    draw = {key: rank.unwrapped.episode_record().options[key] for key in ("calibration", "reward", "flop_price")}
    heads = gym.make("plasticity/Heads-v1", disable_env_checker=True, **SMALL, **signals, horizon=3)
    other, _ = heads.reset(seed=0, options=draw)
    for_rank, for_heads = controllers.make(name), controllers.make(name, sparsity=0.5, rounds=3)
    for_rank.reset(0)
    for_heads.reset(0)
    for _ in range(3):
        observation, reward, *_ = rank.step(for_rank.act(observation))
        other, expected, *_ = heads.step(for_heads.act(other))
        assert (pruned(rank) == pruned(heads)).all()
        assert reward == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["keep_all", "constant", "plasticity", "ann", "random"])
def test_every_controller_plays_it(name):
    env = make(horizon=2, pruned_share=0.3, **(ALL_SIGNALS if name == "ann" else {}))
    observation, _ = env.reset(seed=0)
    controller = controllers.make(name)
    controller.reset(0)
    for _ in range(2):
        action = controller.act(observation)
        assert env.action_space.contains(action)
        observation, *_ = env.step(action)
    assert pruned(env).sum() == round(0.3 * 16)


def test_the_vector_environment_pays_what_single_ones_pay():
    settings = {**SMALL, "horizon": 2, "flop_price": 4.0}
    envs = gym.make_vec("plasticity/HeadRank-v1", num_envs=3, **settings)
    observations, _ = envs.reset(seed=5)
    single = [make(horizon=2, **ALL_SIGNALS) for _ in range(3)]
    own = [env.reset(seed=5 + index)[0] for index, env in enumerate(single)]
    random = np.random.default_rng(0)
    for _ in range(2):
        for index in range(3):
            for key in own[index]:
                np.testing.assert_allclose(observations[key][index], own[index][key], rtol=2e-3, atol=2e-3)
        scores = random.uniform(-1, 1, (3, 16)).astype(np.float32)
        observations, rewards, *_ = envs.step(scores)
        steps = [env.step(row) for env, row in zip(single, scores, strict=True)]
        own = [step[0] for step in steps]
        np.testing.assert_allclose(rewards, [step[1] for step in steps], atol=1e-5)
    assert envs.action_masks().shape == (3, 16)
    assert envs.single_action_space == single[0].action_space
    envs.close()


def test_a_record_replays(tmp_path):
    env = make(horizon=2)
    env.reset(seed=1)
    random = np.random.default_rng(1)
    rewards = [env.step(random.uniform(-1, 1, 16).astype(np.float32))[1] for _ in range(2)]
    record = env.unwrapped.episode_record()
    record.save(tmp_path / "record.json")
    assert validate(type(record).load(tmp_path / "record.json")) == pytest.approx(rewards, abs=1e-6)


@pytest.mark.parametrize(
    "action", [np.zeros(15), np.full(16, np.nan), np.array(["a"] * 16), 3], ids=["short", "nan", "text", "number"]
)
def test_refuses_what_are_no_scores(action):
    env = make(horizon=1)
    env.reset(seed=0)
    with pytest.raises(InputError, match="finite scores"):
        env.unwrapped.step(action)


def test_a_share_belongs_to_this_environment_alone():
    with pytest.raises(InputError, match="HeadRank"):
        gym.make("plasticity/Heads-v1", **SMALL, pruned_share=0.3)
    with pytest.raises(InputError, match="needs pruned_share"):
        make(pruned_share=None)
    with pytest.raises(InputError, match="pruned_share"):
        make(pruned_share=1.5)
    env = gym.make("plasticity/Heads-v1", **SMALL)
    with pytest.raises(InputError, match="HeadRank"):
        env.reset(options={"pruned_share": 0.2})
    rank = make(horizon=1)
    rank.reset(seed=0, options={"pruned_share": 0.25})
    rank.step(torch.arange(16).float().numpy())
    assert pruned(rank).sum() == 4


@pytest.mark.parametrize("units", ["heads", "heads+mlp"])
def test_at_a_limit_units_still_trade_places(units):
    """A unit that comes back makes room for another one, where no unit could go alone."""
    env = make(horizon=4, pruned_share=0.5, max_sparsity=0.5, units=units)
    env.reset(seed=0)
    slots, random = env.unwrapped.head_slots, np.random.default_rng(0)
    before = np.zeros(slots, dtype=bool)
    for step in range(4):
        scores = random.uniform(-1, 1, slots).astype(np.float32)
        _, _, _, _, info = env.step(scores)
        now = pruned(env)
        if units == "heads":
            assert now.sum() == 2 * (step + 1)
            assert info["invalid_actions"] == 0
        else:
            assert now.sum() <= slots / 2
        assert not step or (before & ~now).any()
        before = now
    env = make(horizon=3, pruned_share=(0.5, 0.5), max_sparsity=0.5, min_heads_per_layer=2)
    env.reset(seed=0)
    for step in range(3):  # two of four heads of each layer can go, and go in turns
        scores = np.where((np.arange(16) + step) % 2, 1.0, -1.0) + np.arange(16) / 100
        env.step(scores.astype(np.float32))
    assert (pruned(env) == (np.arange(16) % 2 == 0)).all()


def test_a_share_beyond_the_sparsity_limit_is_refused():
    with pytest.raises(InputError, match="more than max_sparsity"):
        make(pruned_share=0.75, max_sparsity=0.5)
    env = make(max_sparsity=0.7)
    with pytest.raises(InputError, match="more than max_sparsity"):
        env.reset(options={"pruned_share": 0.8})
