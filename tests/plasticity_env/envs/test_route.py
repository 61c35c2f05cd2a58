"""plasticity/Route-v0: what it pays, shows and refuses, against the table and the project's own reward."""

from __future__ import annotations

import math
import pickle
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from plasticity_env import EpisodeRecord, InputError, validate
from plasticity_env.dynamic.route_table import RouteTable
from plasticity_env.envs.rewards import Outcome, find_reward
from plasticity_env.envs.route import SHIPPED_TABLE, RouteEnv
from plasticity_env.envs.route_board import RouteBoard
from plasticity_env.envs.route_columns import REQUEST_COLUMNS, STRUCTURE_COLUMNS
from plasticity_env.envs.route_settings import RouteSettings
from plasticity_env.envs.route_split import split_texts
from tests.plasticity_env.envs.route_tables import made_table

ID = "plasticity/Route-v0"
TABLE = made_table()
WITH_SIGNALS = made_table(signals=True)
VARIANTS = [{}, {"probes": 2}, {"budget": "kv_cache"}]


def make(**kwargs) -> RouteEnv:
    table = WITH_SIGNALS if kwargs.get("signals") else TABLE
    return gym.make(ID, table=table, disable_env_checker=True, **kwargs).unwrapped


@pytest.mark.parametrize("observation", ["dict", "flat"])
@pytest.mark.parametrize("variant", [*VARIANTS, {"signals": True}])
def test_gymnasiums_and_stable_baselines3s_checkers_pass(variant, observation):
    from stable_baselines3.common.env_checker import check_env as check

    env = make(observation=observation, render_mode="rgb_array", **variant)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env)
        warnings.filterwarnings("ignore", message=r".*unconventional shape.*")  # a row for every structure
        check(env)


@pytest.mark.parametrize("structure", range(9))
def test_a_choice_pays_what_the_reward_registry_says_of_the_table(structure):
    env = make()
    _, info = env.reset(seed=3)
    text, price = info["text"], info["flop_price"]
    _, reward, terminated, truncated, info = env.step(structure)
    assert (terminated, truncated) == (True, False)
    flops = (32 * 1e6 + 5e3 + 224 * TABLE.flops[structure]) / 256  # prefix, its reading, the rest
    outcome = Outcome(float(TABLE.loss[text, structure]), float(TABLE.loss[text, 0]), flops, 1e6, price)
    terms = find_reward("ppl_per_flop").terms(outcome)
    assert reward == pytest.approx(sum(terms.values()), abs=1e-9)
    assert (info["quality"], info["cost"]) == pytest.approx((terms["quality"], terms["cost"]), abs=1e-9)
    assert info["flops_kept"] == pytest.approx(flops / 1e6)
    assert info["loss"] == TABLE.loss[text, structure]
    assert (info["structure"], info["kind"]) == (structure, TABLE.kinds[TABLE.kind[text]])


def test_probes_show_their_loss_are_billed_at_once_and_telescope():
    env = make(probes=2)
    seen, info = env.reset(seed=5, options={"text": 7, "flop_price": 2.0})
    names = list(STRUCTURE_COLUMNS)
    rise, probed = names.index("probe_rise"), names.index("probed")
    assert not seen["structures"][:, [rise, probed]].any()
    assert seen["action_mask"].tolist() == [1] * 9 + [0] + [1] * 8  # the dense structure need not be tried
    seen, first, terminated, _, info = env.step(9 + 4)
    assert not terminated
    assert set(info) == {"text", "flop_price", "probes", "invalid_actions"}
    bill = 32 * TABLE.flops[4] / 1e6 / 256
    assert first == pytest.approx(-2.0 * math.log1p(bill))
    assert np.flatnonzero(seen["structures"][:, probed]).tolist() == [4]
    assert seen["structures"][4, rise] == pytest.approx(TABLE.probe[7, 4] - TABLE.probe[7, 0], abs=1e-6)
    assert seen["action_mask"].tolist() == [1] * 9 + [0, 1, 1, 1, 0, 1, 1, 1, 1]
    assert seen["request"][list(REQUEST_COLUMNS).index("probes_left")] == 0.5
    _, last, terminated, _, info = env.step(4)
    assert terminated
    kept = TABLE.flops_kept(np.array(4), bill * 256)
    assert info["flops_kept"] == pytest.approx(kept)
    assert first + last == pytest.approx(TABLE.loss[7, 0] - TABLE.loss[7, 4] - 2.0 * math.log(kept), abs=1e-6)


@pytest.mark.parametrize("before", [[], [9 + 3], [9 + 3, 9 + 5]], ids=["of the dense model", "twice", "none left"])
def test_a_probe_that_is_not_allowed_is_the_choice_of_its_structure(before):
    env, action = make(probes=2), {0: 9, 1: 9 + 3, 2: 9 + 7}[len(before)]
    env.reset(seed=0)
    for each in before:
        env.step(each)
    assert not env.action_masks()[action]
    *_, terminated, _, info = env.step(action)
    assert terminated
    assert (info["structure"], info["invalid_actions"]) == (action - 9, 1)


def test_the_kv_budget_pays_per_byte_of_the_request():
    env = make(budget="kv_cache", kv_price=0.01)
    seen, info = env.reset(seed=1, options={"batch": 8, "tokens": 1000})
    request = dict(zip(REQUEST_COLUMNS, seen["request"].tolist(), strict=True))
    assert request["log_batch"] == pytest.approx(math.log(8))
    assert request["log_tokens"] == pytest.approx(math.log(1000), rel=1e-6)
    saved = 8 * 1000 * (TABLE.kv_bytes[0] - TABLE.kv_bytes[6]) / 2**20
    _, reward, _, _, end = env.step(6)
    quality = float(TABLE.loss[info["text"], 0]) - float(TABLE.loss[info["text"], 6])
    assert reward == pytest.approx(quality + 0.01 * saved, abs=1e-9)
    assert end["kv_mib"] == pytest.approx(8 * 1000 * TABLE.kv_bytes[6] / 2**20)
    drawn = [env.reset()[1] for _ in range(50)]
    assert all(each["batch"] == int(each["batch"]) and 1 <= each["batch"] <= 32 for each in drawn)
    assert len({each["tokens"] for each in drawn}) > 10


def test_the_columns_are_those_that_are_documented():
    """Their names, order and bounds belong to v0."""
    assert list(STRUCTURE_COLUMNS) == ["share", "log_cost_kept", "mean_rise", "distance", "probed", "probe_rise"]
    assert list(REQUEST_COLUMNS) == ["log_price", "probes_left", "log_batch", "log_tokens"]
    env, flat = make(probes=1), make(probes=1, observation="flat")
    hidden = [f"hidden_{number}" for number in range(8)]
    kinds = ["distance_0", "distance_1", "distance_2"]
    assert list(env.board.columns.prefix) == [*hidden, "loss", "entropy", *kinds]
    seen, row = env.reset(seed=2)[0], flat.reset(seed=2)[0]
    assert {name: part.shape for name, part in seen.items()} == {
        "prefix": (13,),
        "structures": (9, 6),
        "request": (4,),
        "action_mask": (18,),
    }
    assert np.array_equal(row, np.concatenate([part.ravel() for part in seen.values()]).astype("f"))
    assert flat.observation_space.shape == (13 + 54 + 4 + 18,)
    assert np.isfinite([flat.observation_space.low, flat.observation_space.high]).all()
    assert all(name in RouteEnv.__doc__ for name in seen)


def test_signals_of_every_unit_follow_in_the_prefix():
    """As z-scores over the train texts; tables that were measured without them say so."""
    env = make(signals=True, texts="all")
    columns = env.board.columns.prefix
    assert list(columns[:13]) == list(make().board.columns.prefix)
    assert columns[13:16] == ("entropy_0.0", "activation_0.0", "fluctuation_0.0")
    assert columns[-1] == "fluctuation_1.3"
    train = split_texts(WITH_SIGNALS, "train", 0.25, "")
    values = WITH_SIGNALS.signals[:, 1, 2, 1].astype(np.float64)
    seen = env.reset(options={"text": 7})[0]["prefix"][columns.index("activation_1.2")]
    assert seen == pytest.approx((values[7] - values[train].mean()) / values[train].std(), rel=1e-4)
    with pytest.raises(InputError, match="holds no signals of units"):
        RouteEnv(signals=True)


def test_what_is_observed_of_structures_comes_from_the_train_texts():
    board = RouteBoard(TABLE, RouteSettings())
    train = split_texts(TABLE, "train")
    rise = (TABLE.loss - TABLE.loss[:, :1])[train].mean(0)
    columns = dict(zip(STRUCTURE_COLUMNS, board.static.T, strict=True))
    np.testing.assert_allclose(columns["mean_rise"], rise, atol=1e-6)
    np.testing.assert_allclose(columns["log_cost_kept"], np.log(TABLE.flops_kept(np.arange(9))), atol=1e-6)
    np.testing.assert_allclose(columns["share"], TABLE.shares, atol=1e-6)
    raw = np.concatenate([TABLE.features, TABLE.distance], 1)
    np.testing.assert_allclose(
        board.prefix[train].mean(0), np.zeros(13), atol=0.05
    )  # but for what the bounds cut, the train texts are centred
    assert np.corrcoef(raw[:, 3], board.prefix[:, 3])[0, 1] > 0.99
    nearest = TABLE.distance.argmin(1)
    own = np.array([1, 3, 5])[nearest]
    assert not board.distance[np.arange(len(TABLE)), own].any()
    assert (board.distance[:, [0, 7, 8]] == 0).all()  # the dense structure and the mixtures are of no kind


def test_train_and_test_texts_are_apart_and_a_kind_can_be_held_out():
    train, test = split_texts(TABLE, "train"), split_texts(TABLE, "test")
    assert sorted([*train, *test]) == list(range(60)) == list(split_texts(TABLE, "all"))
    assert test.tolist() == [*range(15, 20), *range(35, 40), *range(55, 60)]
    without = split_texts(TABLE, "train", held_out="code")
    assert set(TABLE.kind[without]) == {0, 2}
    assert np.array_equal(split_texts(TABLE, "test", held_out="code"), test)
    env = make(texts="test")
    assert {env.reset(seed=seed)[1]["text"] for seed in range(200)} == set(test.tolist())
    assert make().reset(options={"text": 59})[1]["text"] == 59  # any text may be named
    with pytest.raises(InputError, match="unknown kind of text 'prose'"):
        make(held_out="prose")


def test_the_kind_is_not_told_before_the_end():
    for variant in VARIANTS:
        env = make(**variant)
        assert "kind" not in env.reset(seed=0)[1]
        if "probes" in variant:
            assert "kind" not in env.step(10)[4]
        assert "kind" in env.step(1)[4]


@pytest.mark.parametrize("variant", VARIANTS)
def test_records_replay_and_forged_ones_are_found_out(variant, tmp_path):
    env = gym.make(ID, **variant)
    env.reset(seed=4)
    actions = [1] if "probes" not in variant else [env.unwrapped.board.columns.structures + 2, 2]
    for action in actions:
        env.step(action)
    env.unwrapped.episode_record().save(tmp_path / "episode.json")
    record = EpisodeRecord.load(tmp_path / "episode.json")
    assert validate(record) == pytest.approx(record.rewards, rel=1e-9)
    forged = EpisodeRecord(**{**record.__dict__, "rewards": (record.rewards[0] + 0.01, *record.rewards[1:])})
    with pytest.raises(InputError, match="step 0 of the record claims"):
        validate(forged)


def test_a_record_of_another_table_asks_for_it(tmp_path):
    env = make()
    env.reset(seed=0)
    env.step(3)
    record = env.episode_record()
    assert validate(record, env=env) == record.rewards
    with pytest.raises(InputError, match=r"validate\(record, env=\.\.\.\)"):
        validate(record)


def test_a_pickled_environment_plays_on():
    env = make(probes=2)
    env.reset(seed=0)
    env.step(9 + 2)
    again = pickle.loads(pickle.dumps(env))
    assert again.step(2)[1] == env.step(2)[1]
    assert again.reset()[1] == env.reset()[1]


def test_a_table_is_read_from_its_folder_and_the_default_comes_with_the_package(tmp_path):
    WITH_SIGNALS.save(tmp_path / "signals")
    assert np.array_equal(RouteTable.load(tmp_path / "signals").signals, WITH_SIGNALS.signals)
    TABLE.save(tmp_path / "table")
    assert RouteTable.load(tmp_path / "table").signals is None
    env = gym.make(ID, table=tmp_path / "table", flop_price=1.0)
    env.reset(seed=3)
    mine = make(flop_price=1.0)
    mine.reset(seed=3)
    assert env.step(5)[1] == mine.step(5)[1]
    shipped = RouteTable.load(SHIPPED_TABLE)
    assert gym.make(ID).unwrapped.board.columns.structures == len(shipped.structures)
    assert sum(file.stat().st_size for file in SHIPPED_TABLE.iterdir()) < 300_000


def test_rendering_tells_what_was_probed_and_chosen():
    env = make(probes=1, render_mode="ansi")
    env.reset(seed=0)
    assert "chosen" not in env.render()
    env.step(9 + 4)
    env.step(4)
    (line,) = [line for line in env.render().splitlines() if "chosen" in line]
    assert line.startswith("code@0.6 ")
    assert "-  <- chosen" not in line  # its probe is shown
    env = make(render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    env.step(3)
    assert before.dtype == np.uint8
    assert before.shape == env.render().shape
    assert (before != env.render()).any()


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"frameskip": 1}, "unexpected keyword argument 'frameskip'"),
        ({"observation": "flta"}, r"unknown observation 'flta' \(did you mean 'flat'\?\)"),
        ({"budget": "seconds"}, "unknown budget 'seconds'"),
        ({"texts": "dev"}, "unknown texts 'dev'"),
        ({"flop_price": 0.0}, "flop_price must lie above 0"),
        ({"flop_price": (2, 1)}, "flop_price must lie above 0"),
        ({"signals": 1}, "signals must be True or False"),
        ({"probes": -1}, "probes must be a whole number of at least 0"),
        ({"probes": 9}, "probes must be at most 8"),
        ({"probes": 1, "budget": "kv_cache"}, "a probe leaves no KV cache behind"),
        ({"kv_price": 1.0}, "kv_price counts with budget='kv_cache'"),
        ({"flop_price": 1.0, "budget": "kv_cache"}, "flop_price counts with budget='flops'"),
        ({"batch": 0.5, "budget": "kv_cache"}, "batch must be a whole number"),
        ({"test_share": 1.0}, r"test_share must lie in \(0, 1\)"),
        ({"held_out": 3}, "held_out must be the name"),
        ({"render_mode": "human"}, "unknown render_mode 'human'"),
    ],
)
def test_bad_arguments_are_refused_in_a_sentence(kwargs, said):
    with pytest.raises(InputError, match=said):
        RouteEnv(table=TABLE, **kwargs)


@pytest.mark.parametrize("table", ["nowhere", 3, b"x"])
def test_what_is_no_table_is_refused(table):
    with pytest.raises(InputError, match=r"no route table at 'nowhere'|a RouteTable or a folder of one"):
        RouteEnv(table=table)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([1], "must be a mapping"),
        ({"txet": 1}, "unknown reset option 'txet'"),
        ({"batch": 1}, "unknown reset option 'batch'"),
        ({"text": 60}, "text must be a whole number from 0 to 59"),
        ({"text": True}, "text must be a whole number"),
        ({"flop_price": -1}, "flop_price must lie above 0"),
    ],
)
def test_bad_options_are_refused_in_a_sentence(options, said):
    with pytest.raises(InputError, match=said):
        make().reset(options=options)


def test_bad_actions_and_forgotten_resets_are_told():
    env = make()
    with pytest.raises(gym.error.ResetNeeded):
        env.step(0)
    env.reset(seed=0)
    for action in (9, -1, None, "x", 1.5, [0, 1]):
        with pytest.raises(InputError, match=r"whole number|numbers in an array"):
            env.step(action)
    env.step(0)
    with pytest.raises(gym.error.ResetNeeded, match="over"):
        env.step(0)
