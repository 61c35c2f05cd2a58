"""What the API is given as it comes: converted where it can be, refused in a sentence where it cannot, never a raw error."""

from __future__ import annotations

import json
import os
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

import plasticity_env
from plasticity_env import EpisodeRecord, InputError, RunRecord, controllers, load_model, load_plastic, load_text
from plasticity_env.common.files import ZOO_FOLDER
from plasticity_env.envs.head_rank import HeadRankEnv
from plasticity_env.envs.rank_vector import HeadRankVectorEnv
from plasticity_env.envs.vector import HeadsVectorEnv
from plasticity_env.model.stock.stock_files import check_export, prepare_export, write_export
from tests.conftest import ALL_SIGNALS, SMALL

NOTHING = object()
WRONG = {
    "None": None,
    "text": "x",
    "empty": [],
    "mapping": {"a": 1},
    "object": NOTHING,
    "a list of None": [None] * 16,
    "ragged": [[1], [1, 2]],
    "two axes": np.zeros((4, 4)),
    "complex": np.zeros(16, complex),
    "not numbers": np.full(16, np.nan),
    "truths": np.zeros(16, bool),
    "one number": 1.5,
    "text in an array": np.array("a"),
}


@pytest.fixture(scope="module")
def loaded():
    return load_model(SMALL["model_name"])


@pytest.fixture(scope="module")
def players(small_text):
    """An environment of each kind, after a reset."""
    settings = {**SMALL, **dict.fromkeys(ALL_SIGNALS, False)}
    kinds = {
        kind: gym.make(f"plasticity/{kind}-v1", text=small_text, **settings)
        for kind in ("Heads", "HeadEdit", "HeadRank")
    }
    envs = {name: env.unwrapped for name, env in kinds.items()}
    envs["vector"] = HeadsVectorEnv(2, text=small_text, **settings)
    envs["rank vector"] = HeadRankVectorEnv(2, text=small_text, **settings)
    for env in envs.values():
        env.reset(seed=0)
    return envs


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("kind", ["Heads", "HeadEdit", "HeadRank", "vector", "rank vector"])
def test_an_action_of_another_shape_or_type_is_refused(players, kind, what):
    with pytest.raises(InputError, match="an action must"):
        players[kind].step(WRONG[what])


@pytest.mark.parametrize("action", [np.zeros(16), np.full(16, 9), np.full(16, -1), np.full(16, 2**63, np.uint64)])
def test_numbers_that_stand_for_no_edit_are_refused(players, action):
    with pytest.raises(InputError, match="16 whole numbers from 0 to 3"):
        players["Heads"].step(action)


@pytest.mark.parametrize("action", [-1, 49, 10**30, True])
def test_a_number_that_stands_for_no_head_is_refused(players, action):
    with pytest.raises(InputError, match="a whole number from 0 to 48, got"):
        players["HeadEdit"].step(action)


def test_actions_of_torch_and_lists_are_those_of_numpy(players):
    edits = [1] + [0] * 15
    for action in (edits, torch.tensor(edits), np.array(edits, np.uint8)):
        assert players["Heads"].edits_of(action)[0].flatten().tolist() == edits
    scores = torch.linspace(-1, 1, 16, requires_grad=True)
    rank = players["HeadRank"]
    assert isinstance(rank, HeadRankEnv)
    assert torch.equal(rank.edits_of(scores)[0], rank.edits_of(scores.tolist())[0])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model_name": None}, "model_name must be a name or a path, got None"),
        ({"model_name": 5}, "model_name must be a name or a path, got 5"),
        ({"model_name": ""}, "model_name must be a name or a path, got ''"),
        ({"dataset": None}, "dataset must be a name or a path"),
        ({"dataset": b"x"}, "dataset must be a name or a path"),
        ({"dataset_config": 5}, "dataset_config must be a name"),
        ({"device": None}, "device must be a name"),
        ({"mode": 3}, "mode must be a name"),
        ({"signals": None}, "signals must be names of signals, got None"),
        ({"signals": [None]}, "unknown signal None"),
        ({"flop_price": None}, "flop_price must be a number or a range of two numbers, got None"),
        ({"flop_price": True}, "flop_price must be a number or a range"),
        ({"flop_price": []}, "flop_price must be a number or a range"),
        ({"flop_price": [[1, 2]]}, "flop_price must be a number or a range"),
        ({"flop_price": np.zeros((2, 2))}, "flop_price must be a number or a range"),
        ({"horizon": None}, "horizon must be a whole number of at least 1, got None"),
        ({"horizon": 3.0}, "horizon must be a whole number of at least 1, got 3.0"),
        ({"horizon": 10**30}, "is more than 2147483647"),
        ({"learning_rate": "3e-4"}, "learning_rate must be a number, got '3e-4'"),
        ({"learning_rate": np.inf}, r"learning_rate must lie in \(0, 100\], got inf"),
        ({"prefix_mb": np.inf}, "prefix_mb must lie in"),
        ({"obs_signal": 1}, "obs_signal must be True or False, got 1"),
        ({"loaded": 3}, "loaded must be what load_model returns, got 3"),
        ({"text": 3}, "text must be what load_text returns, got 3"),
        ({"workbench": 3}, "workbench must be that of another environment, got 3"),
        ({"render_mode": "film"}, "unknown render_mode 'film'"),
    ],
)
def test_arguments_of_another_kind_are_refused(make_env, values, said):
    with pytest.raises(InputError, match=said):
        make_env(disable_env_checker=True, **values)


@pytest.mark.parametrize(
    "options",
    [[1], 3, {3: 1}, {"calibration": 3}, {"calibration": [None]}, {"flop_price": None}, {"pruned_share": 0.5}],
)
@pytest.mark.parametrize("kind", ["Heads", "vector"])
def test_options_of_a_reset_that_are_none_are_refused(players, kind, options):
    with pytest.raises(InputError):
        players[kind].reset(options=options)


@pytest.mark.parametrize(
    "values",
    [
        {"split": None},
        {"split": []},
        {"blocks": -1},
        {"blocks": 0},
        {"blocks": 1.5},
        {"active": "x"},
        {"active": np.ones((2, 2))},
        {"active": np.full((4, 4), 2)},
    ],
)
def test_an_evaluation_of_nothing_is_refused(players, values):
    with pytest.raises(InputError):
        players["HeadEdit"].evaluate(**values)


def test_numbers_of_other_libraries_and_paths_are_written_down(make_env, tmp_path):
    source = ZOO_FOLDER / "models" / SMALL["model_name"]
    for values in (
        {"flop_price": np.array([1.0, 4.0])},
        {"flop_price": [np.float32(1), np.int64(4)]},
        {"flop_price": torch.tensor([1.0, 4.0])},
        {"horizon": np.int64(2), "max_sparsity": np.float32(0.5)},
        {"obs_signal": np.bool_(False)},
        {"device": torch.device("cpu")},
        {"model_name": source},
    ):
        env = make_env(disable_env_checker=True, **values).unwrapped
        env.reset(seed=0)
        env.episode_record().save(tmp_path / "record.json")
        kept = EpisodeRecord.load(tmp_path / "record.json").kwargs
        assert kept == json.loads(json.dumps(env.settings.kwargs()))
        assert kept[next(iter(values))] is not None


@pytest.mark.parametrize("path", [None, 3, b"x", "", " ", "a\0b", ["a"]])
def test_what_is_no_path_is_refused(loaded, path):
    for load in (load_model, load_plastic, RunRecord.read, EpisodeRecord.load, controllers.load, controllers.make):
        with pytest.raises(InputError):
            load(path)
    with pytest.raises(InputError, match="a data set must name a file or a folder"):
        load_text(path, loaded.tokenizer)
    with pytest.raises(InputError, match="a checkpoint must name a file or a folder"):
        plasticity_env.save_plastic(loaded.model, path)


def test_a_missing_path_is_a_missing_folder_and_no_name_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (Path("no/model"), Path("no"), "./no", "~/no/model"):
        with pytest.raises(InputError, match="it is not a folder or file that exists; the embedded models are"):
            load_model(path)
    with pytest.raises(InputError, match="home of a user that does not exist"):
        load_model("~nobody_of_this_name/model")


@pytest.mark.parametrize(
    "options",
    [
        {"device": None},
        {"device": 3.5},
        {"dtype": "float32"},
        {"dtype": torch.int8},
        {"mlp_blocks": -1},
        {"mode": None},
    ],
)
def test_options_of_loading_that_are_none_are_refused(options):
    with pytest.raises(InputError):
        load_model(SMALL["model_name"], **options)


def test_a_tilde_is_the_home_folder_wherever_a_path_enters(loaded, make_env, tmp_path, monkeypatch):
    work, home = tmp_path / "work", tmp_path / "home"
    work.mkdir()
    home.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(home))
    plasticity_env.save_plastic(loaded.model, "~/kept", loaded.tokenizer)
    plasticity_env.save_plastic(loaded.model, Path("~/kept.pth"), loaded.tokenizer)
    assert load_plastic("~/kept").model.shape == load_plastic(Path("~/kept.pth")).model.shape == loaded.model.shape
    controllers.make("ann").save("~/controller")
    assert controllers.make("~/controller").info == controllers.load("~/controller").info
    env = make_env().unwrapped
    env.reset(seed=0)
    env.episode_record().save("~/record.json")
    assert EpisodeRecord.load("~/record.json") == env.episode_record()
    (home / "text.txt").write_text("All the world's a stage. " * 400)
    assert load_text("~/text.txt", loaded.tokenizer, block_size=16).name == "text.txt"
    (home / "model").symlink_to(ZOO_FOLDER / "models" / SMALL["model_name"])
    assert load_model("~/model").model.shape == loaded.model.shape
    loaded.model.compact().save_pretrained("~/compact")
    assert {"model.safetensors", "README.md"} <= set(os.listdir(home / "compact"))
    write_export(prepare_export(loaded.model, "masked"), "~/masked", loaded.tokenizer)
    assert check_export("~/masked", loaded.model) < 1e-4
    assert os.listdir(work) == []


def test_a_record_names_no_module_and_no_argument_but_settings(monkeypatch):
    monkeypatch.setattr(
        gym, "make", lambda *args, **kwargs: pytest.fail("an environment of a stranger's record was made")
    )
    for env_id, kwargs, said in (
        ("this:Env-v0", {}, "unknown environment of a record 'this:Env-v0'"),
        ("CartPole-v1", {}, "unknown environment of a record 'CartPole-v1'"),
        (None, {}, "unknown environment of a record None"),
        ("plasticity/Heads-v1", {"render_mode": "human"}, "unexpected keyword argument 'render_mode'"),
        ("plasticity/Heads-v1", {"horizon": "3"}, "horizon must be a whole number"),
    ):
        with pytest.raises(InputError, match=said):
            plasticity_env.validate(EpisodeRecord(env_id, kwargs, {}, (), ()))
