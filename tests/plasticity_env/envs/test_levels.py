"""plasticity/Levels-v0: levels a site that cost exactly what is due, on toy models whose choices can all be tried."""

from __future__ import annotations

import itertools
import pickle
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from plasticity_env import InputError, controllers, make_env, validate
from plasticity_env.envs.level_columns import LEVEL_COLUMNS
from plasticity_env.envs.replay import EpisodeRecord
from plasticity_env.model.flops import flop_table
from tests.plasticity_env.envs.playing import same
from tests.plasticity_env.envs.toy_models import BLOCKS, TOKENS, flops_by_hand, toy_model, toy_text

ID = "plasticity/Levels-v0"
SETTINGS = {"max_length": TOKENS, "calibration_blocks": 4, "reward_blocks": 2, "horizon": 2, "flop_price": 4.0}
LIGHT = {"obs_signal": False, "residual_signal": False}


def make(architecture="gpt2", blocks=BLOCKS, **settings):
    units = {"units": "heads+mlp", "mlp_blocks": blocks, "neuron_order": "stored"} if blocks else {}
    loaded = toy_model(architecture, blocks)
    values = {**SETTINGS, **LIGHT, **units, "pruned_share": (0.2, 0.7), **settings}
    return make_env(ID, loaded=loaded, text=toy_text(), **values)


def reachable(env, room):
    """Most FLOPs that any choice of levels within the room takes off, one by one by hand."""
    table = env.table
    ranges = [range(low, high + 1) for low, high in zip(room.lowest, room.highest, strict=True)]
    architecture = env.workbench.name.split()[1]
    saved = [
        env.dense_flops - flops_by_hand(architecture, m)
        for m in map(table.mask, itertools.product(*ranges))
        if m[:, :2].any()
    ]
    return max(flops for flops in saved if flops <= room.due)


@pytest.mark.parametrize("action", ["scores", "levels"])
def test_without_exactness_an_episode_ends_within_the_cheapest_unit(action):
    env, exact = make("llama", action=action, exact=False), make("llama", action=action)
    for seed in range(4):
        env.reset(seed=seed)
        exact.reset(seed=seed)
        env.action_space.seed(seed)
        for _ in range(2):
            room = env._task.room(env.table, env.get_state()["episode"])
            assert room.slack == env.table.least > 0
            drawn, most = env.action_space.sample(), reachable(env, room)
            env.step(drawn)
            exact.step(drawn)
            gone = env.dense_flops - env.workbench.flop_table.total(env.get_state()["episode"].active)
            assert most - room.slack < gone <= most
    with pytest.raises(InputError, match="exact must be True or False"):
        make(exact=1)


@pytest.mark.parametrize("action", ["scores", "levels"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("mode", ["adaptive", "compressed"])
def test_every_action_reaches_exactly_what_is_due(architecture, action, mode):
    env = make(architecture, action=action, mode=mode)
    for seed in range(2):
        _, info = env.reset(seed=seed)
        env.action_space.seed(seed)
        for taken in (1, 2):
            room = env._task.room(env.table, env.get_state()["episode"])
            assert room.due <= env._task.due_share(env.get_state()["episode"]) * env._task.owned + 1e-6
            before = info["levels"]
            drawn = env.action_space.sample()
            foreseen = env.preview(drawn)
            observation, _, terminated, truncated, info = env.step(drawn)
            assert env.dense_flops - info["flops"] == reachable(env, room)
            assert info["invalid_actions"] == 0
            assert torch.equal(env.table.mask(info["levels"]), env.get_state()["episode"].active)
            assert torch.equal(foreseen, env.get_state()["episode"].active)
            assert (terminated, truncated) == (taken == 2, False)
            assert mode == "adaptive" or (info["levels"] >= before).all()
            assert env.observation_space.contains(dict(observation))


def test_rewards_are_the_projects_potential():
    env = make(horizon=3)
    _, info = env.reset(seed=0)
    dense, total = info["loss"], 0.0
    env.action_space.seed(0)
    for _ in range(3):
        *_, reward, _, _, info = env.step(env.action_space.sample())
        total += reward
    kept = np.log(info["flops"] / env.dense_flops)
    assert total == pytest.approx(dense - info["loss"] - 4.0 * kept, abs=1e-7)


def test_scores_are_prices_per_flop():
    """The prices' own rises, as scores, lead to the choice of least price; what all scores have in common does not count."""
    env = make("llama", pruned_share=0.5, horizon=1)
    env.reset(seed=0)
    table, room = env.table, env._task.room(env.table, env.get_state()["episode"])
    scores = torch.zeros(table.shape, dtype=torch.float64)
    for site in table.sites:
        rises = np.diff(site.prices) / np.diff(site.costs)
        scores[site.layer, list(site.order)] = torch.from_numpy(rises)
    scores = scores.flatten().numpy() / float(scores.abs().max())
    found = env.table.levels(env.preview(scores))
    choices = [
        levels
        for levels in itertools.product(range(3), repeat=4)
        if table.cost(levels) == table.cost(found) and table.mask(levels)[:, :2].any()
    ]
    assert table.price(found) == pytest.approx(min(map(table.price, choices)), rel=1e-9)
    assert len(choices) > 1
    assert torch.equal(env.preview(scores), env.preview(0.25 * scores - 0.5))
    assert room.due == int(0.5 * table.whole)


def test_levels_that_cost_what_is_due_are_taken_as_they_are():
    env = make("gpt2", action="levels", pruned_share=0.5, horizon=1)
    env.reset(seed=0)
    table = env.table
    due = env._task.room(table, env.get_state()["episode"]).due
    fitting = [levels for levels in itertools.product(range(3), repeat=4) if 0 <= due - table.cost(levels) < table.step]
    assert fitting
    for levels in fitting:
        assert table.levels(env.preview(np.array(levels))).tolist() == list(levels)


def test_a_level_is_what_the_model_has_pruned_and_evaluates_to():
    env = make("llama", horizon=1)
    env.reset(seed=2)
    *_, info = env.step(np.linspace(1, -1, env.head_slots))
    model = env.model
    assert model.active.int().tolist() == env.table.mask(info["levels"]).int().tolist()
    assert flop_table(model, TOKENS).total(model.active) == info["flops"]


def test_what_is_shown_of_the_levels():
    env = make("llama")
    observation, _ = env.reset(seed=0)
    rows = observation["levels"].reshape(2, 4, len(LEVEL_COLUMNS))
    for site in env.table.sites:
        shown = rows[site.layer, list(site.order)]
        assert shown[:, 0].tolist() == [0.5, 1.0]
        assert shown[:, 1] == pytest.approx(np.diff(site.costs) / env.dense_flops)
        assert shown[:, 2] == pytest.approx(np.log(site.prices[1:]), rel=1e-5)
    assert observation["action_mask"].tolist() == [1] * 8


def test_masks_say_what_may_change():
    env = make(mode="compressed", action="levels", min_heads_per_layer=1, pruned_share=0.5)
    observation, _ = env.reset(seed=0)
    assert observation["action_mask"].tolist() == [1, 1, 0, 1, 1, 1] * 2
    observation, *_, info = env.step(np.zeros(4, dtype=int))
    levels = info["levels"]
    assert levels.sum() > 0
    bounds = zip(levels, (1, 2, 1, 2), strict=True)
    offered = [low <= level <= high for low, high in bounds for level in range(3)]
    assert observation["action_mask"].tolist() == offered
    assert env.action_masks().tolist() == offered
    sample = env.action_space.sample(mask=controllers.sample_mask(observation))
    assert (sample >= levels).all()


@pytest.mark.parametrize("settings", [{"action": "levels"}, {"observation": "flat"}], ids=str)
def test_gymnasiums_and_sb3s_checkers_pass(settings):
    from stable_baselines3.common.env_checker import check_env as check

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=r".*unconventional shape.*")  # tokens are two-dimensional
        check_env(make(render_mode="rgb_array", **settings), skip_render_check=True)
        check(make(**settings))


def test_the_ids():
    wide = gym.make(ID, loaded=toy_model(), text=toy_text(), **SETTINGS)
    flat = gym.make("plasticity/FlatLevels-v0", loaded=toy_model(), text=toy_text(), **SETTINGS)
    shown, vector = wide.reset(seed=3)[0], flat.reset(seed=3)[0]
    assert flat.observation_space.contains(vector)
    assert np.array_equal(vector[-16:], shown["levels"].ravel())
    assert np.array_equal(vector[-20:-16], shown["action_mask"])
    assert wide.unwrapped.env_id == ID


@pytest.mark.parametrize("action", ["scores", "levels"])
def test_an_episode_can_be_replayed_and_played_on_from_copies(action, tmp_path):
    env = make("llama", action=action)
    env.reset(seed=5)
    env.action_space.seed(1)
    env.step(env.action_space.sample())
    copies, last = [env.fork(), pickle.loads(pickle.dumps(env))], env.action_space.sample()
    expected = env.step(last)
    for twin in copies:
        found = twin.step(last)
        assert same(dict(found[0]), dict(expected[0]))
        assert found[1] == expected[1]
    record = env.episode_record()
    record.save(tmp_path / "record.json")
    again = EpisodeRecord.load(tmp_path / "record.json")
    assert again.kwargs["action"] == action
    assert validate(again, env=make("llama", **{**again.kwargs, "mlp_blocks": BLOCKS})) == pytest.approx(record.rewards)


def test_a_budget_of_the_reward_is_never_undercut():
    env = make("gpt2", reward="budget", flop_budget=0.8, pruned_share=0.9)
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(2):
        *_, info = env.step(env.action_space.sample())
    assert info["flops"] >= 0.8 * env.dense_flops
    assert info["invalid_actions"] == 0
    assert info["reward_terms"]["above_budget"] <= 0.0


def test_moment_blocks_fit_and_calibration_blocks_price():
    env = make("gpt2", moment_blocks=2, calibration_blocks=1, horizon=1)
    env.reset(seed=0)
    state = env.get_state()["episode"]
    assert not set(state.moments) & set(state.calibration)
    assert (env.table.sites[0].prices[1:] > 0).all()
    env.step(np.zeros(8))


def test_rules_give_scores_and_play():
    env = make("gpt2", residual_signal=True)
    observation, _ = env.reset(seed=0)
    for name in ("fisher", "random", "constant:prune"):
        assert env.action_space.contains(controllers.make(name).act(observation)) or name != "fisher"
        env.preview(controllers.make(name).act(observation))
    observation, _ = make("gpt2", action="levels").reset(seed=0)
    with pytest.raises(InputError, match="action='scores'"):
        controllers.make("fisher").act(observation)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"action": "level"}, r"unknown action 'level' \(did you mean 'levels'\?\)"),
        ({"max_sparsity": 0.5}, "max_sparsity 0.5 counts units"),
        ({"train_steps": 1}, "train_steps 1 would change"),
        ({"calibration_blocks": 1}, "at least 2"),
        ({"pruned_share": None}, "needs pruned_share"),
        ({"min_heads_per_layer": 2, "pruned_share": 0.9}, "cannot be reached"),
    ],
)
def test_refuses_settings_that_do_not_fit(settings, said):
    with pytest.raises(InputError, match=said):
        make(**settings)


@pytest.mark.parametrize(
    ("action", "given", "said"),
    [
        ("scores", np.zeros(3), "finite scores of shape"),
        ("scores", np.full(8, np.nan), "finite scores of shape"),
        ("levels", np.array([0, 1, 3, 0]), "from 0 to 2"),
        ("levels", np.array([0.5, 1, 1, 0]), "whole numbers"),
    ],
)
def test_refuses_actions_that_are_none(action, given, said):
    env = make(action=action)
    env.reset(seed=0)
    with pytest.raises(InputError, match=said):
        env.step(given)


def test_sites_of_other_depths_have_other_levels():
    env = make("gpt2", blocks=4, action="levels")
    assert env.action_space.nvec.tolist() == [3, 5, 3, 5]
    env.reset(seed=0)
    with pytest.raises(InputError, match="site 0 has levels 0 to 2, got 4"):
        env.step(np.array([4, 0, 0, 0]))


@pytest.mark.parametrize("settings", [{"action": "levels", "mode": "compressed"}, {"observation": "flat"}], ids=str)
def test_native_vector_environments_are_single_ones(settings):
    """Two episodes of each, the second after an automatic reset."""
    values = {**SETTINGS, **LIGHT, "horizon": 1, "pruned_share": (0.2, 0.7), "text": toy_text(), **settings}
    envs = gym.make_vec(ID, 2, loaded=toy_model("llama"), autoreset_mode="SameStep", **values)
    singles = [make_env(ID, loaded=toy_model("llama"), **values) for _ in range(2)]
    observations, infos = envs.reset(seed=3)
    alone = [env.reset(seed=seed) for seed, env in enumerate(singles, 3)]
    for _ in range(2):
        assert envs.observation_space.contains(dict(observations) if isinstance(observations, dict) else observations)
        masks = envs.unwrapped.action_masks()
        for index, (env, (single, info)) in enumerate(zip(singles, alone, strict=True)):
            assert masks[index].tolist() == env.action_masks().tolist()
            assert infos["levels"][index].tolist() == info["levels"].tolist()
            mine, theirs = (s if settings.keys() & {"observation"} else s["levels"] for s in (observations, single))
            np.testing.assert_allclose(mine[index], theirs, rtol=1e-3, atol=1e-3)
        drawn = envs.action_space.sample()
        observations, rewards, done, _, infos = envs.step(drawn)
        assert done.all()
        for index, env in enumerate(singles):
            *_, info = found = env.step(drawn[index])
            assert rewards[index] == pytest.approx(found[1], abs=1e-4)
            assert infos["final_info"]["levels"][index].tolist() == info["levels"].tolist()
        alone = [env.reset() for env in singles]
    with pytest.raises(InputError, match="one row for each of 2"):
        envs.step(np.zeros(3))
