"""One record or class and one line each: what somebody else's module adds plays like what the package brings.

`tests/extensions.py` is that module, one file for one of everything; here it is played through the environments, the
evaluation command and the leaderboard.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch

import plasticity_env
from plasticity_env import (
    InputError,
    Layout,
    LoadedModel,
    PlasticModel,
    Score,
    Signal,
    controllers,
    grow_attention_heads_gradually,
    load_model,
    measure,
    register_layout,
    register_score,
    register_signal,
    validate,
)
from plasticity_env.agents.evaluation.compare_config import CompareConfig
from plasticity_env.agents.evaluation.comparison import compare
from plasticity_env.agents.leaderboard.board_cells import cell_file
from plasticity_env.agents.leaderboard.board_run import leaderboard
from plasticity_env.agents.leaderboard.players import Player, fingerprint
from plasticity_env.agents.ppo.ppo_config import PPOConfig
from plasticity_env.agents.training.agent import AGENTS
from plasticity_env.agents.training.train_config import TrainConfig
from plasticity_env.agents.training.train_run import train
from plasticity_env.common import plugins
from plasticity_env.common.arguments import fill
from plasticity_env.common.tracking import TrackingOptions
from plasticity_env.controllers.planners import PLANNERS, actions_to, make_planner
from plasticity_env.envs.observation import HEAD_FEATURES, NETWORK_HEAD_FEATURES, head_column
from plasticity_env.envs.rewards import REWARDS
from plasticity_env.growth import INITIAL_WEIGHTS
from plasticity_env.model.layout_table import LAYOUTS, find_layout
from plasticity_env.repair import REPAIRS
from plasticity_env.signals.scores import SCORES
from plasticity_env.signals.signal import SIGNALS
from plasticity_env.strategies.growing import GROWTH_STRATEGIES
from plasticity_env.strategies.pruning import PRUNING_STRATEGIES, select_for_pruning
from tests.agents.leaderboard.conftest import TINY
from tests.conftest import SMALL, build, filled

OWN = ("toy", "toy_residual")
ADDED = ["toy", "toy_z", "toy_rank", "toy_per_flop_z", "toy_residual", "toy_residual_z", "toy_residual_rank"]
RANK = {**SMALL, "pruned_share": 0.5}


REGISTRIES = (
    *(SIGNALS, SCORES, REWARDS, REPAIRS, GROWTH_STRATEGIES, INITIAL_WEIGHTS, PRUNING_STRATEGIES.maps[0]),
    *(controllers.CONTROLLERS, PLANNERS, AGENTS, LAYOUTS),
)


@pytest.fixture(scope="module", autouse=True)
def extensions():
    """The other module, whose additions leave with this one's tests."""
    before = [dict(registry) for registry in REGISTRIES]
    yield importlib.import_module("tests.extensions")
    for registry, kept in zip(REGISTRIES, before, strict=True):
        registry.clear()
        registry.update(kept)


@pytest.fixture
def make(small_text):
    def build_env(env_id="plasticity/HeadRank-v1", **settings):
        settings = {**(RANK if "Rank" in env_id else SMALL), "signals": OWN, "text": small_text, **settings}
        return gym.make(env_id, **settings)

    return build_env


@pytest.mark.parametrize("env_id", ["plasticity/Heads-v1", "plasticity/HeadEdit-v1", "plasticity/HeadRank-v1"])
def test_a_signal_stands_behind_the_pinned_columns_where_it_is_asked_for(make, env_id):
    env, plain = make(env_id), make(env_id, signals=())
    shown, without = env.reset(seed=0)[0], plain.reset(seed=0)[0]
    assert env.observation_space.contains(shown)
    assert shown.extra == tuple(ADDED)
    assert shown["heads"].shape[1] == len(HEAD_FEATURES) + len(ADDED)
    assert np.array_equal(shown["heads"][:, : len(HEAD_FEATURES)], without["heads"])
    product = head_column(shown, "fisher") * head_column(shown, "magnitude")
    assert head_column(shown, "toy") == pytest.approx(product, rel=1e-5)
    assert head_column(shown, "toy_residual") == pytest.approx(np.sqrt(head_column(shown, "residual_fisher")), rel=1e-5)
    for column, logs in (
        ("toy_z", np.log(product)),
        ("toy_per_flop_z", np.log(product / head_column(shown, "flop_share"))),
    ):
        assert head_column(shown, column) == pytest.approx((logs - logs.mean()) / logs.std(), abs=1e-3)
    assert head_column(shown, "toy_rank") == pytest.approx(product.argsort().argsort() / (len(product) - 1))
    with pytest.raises(InputError, match=r"make the environment with signals=\('toy',\)"):
        head_column(without, "toy")


def test_a_signal_of_ones_own_in_the_native_vector_environment_and_in_records(make, small_text):
    env = make()
    envs = gym.make_vec("plasticity/HeadRank-v1", num_envs=2, signals=OWN, text=small_text, **RANK)
    together, _ = envs.reset(seed=4)
    scores = np.linspace(-1, 1, 16, dtype=np.float32)
    alone, _ = env.reset(seed=4)
    for _ in range(2):
        for name in ADDED:
            np.testing.assert_allclose(
                head_column(together.row(0), name), head_column(alone, name), rtol=2e-3, atol=2e-3
            )
        together, *_ = envs.step(np.tile(scores, (2, 1)))
        alone, *_ = env.step(scores)
    record = env.unwrapped.episode_record()
    assert json.loads(json.dumps(record.kwargs))["signals"] == list(OWN)
    assert "signals" not in make(signals=()).unwrapped.settings.kwargs()
    assert validate(record, env=make(signals=record.kwargs["signals"])) == pytest.approx(record.rewards, abs=1e-6)


def test_what_cannot_be_registered_or_asked_for(extensions):
    with pytest.raises(InputError, match=r"unknown signal 'toyy' .*did you mean 'toy'"):
        gym.make("plasticity/Heads-v1", signals=("toyy",), **SMALL)
    with pytest.raises(InputError, match="'toy_residual' needs residual_signal=True"):
        gym.make("plasticity/Heads-v1", signals=OWN, residual_signal=False, crossfit_signal=False, **SMALL)
    with pytest.raises(InputError, match="'fisher' comes with the package"):
        register_signal(Signal("fisher", lambda seen: seen["gradient"]))
    with pytest.raises(InputError, match="'fisher' comes with the package"):
        register_score(Score("fisher", ("gradient",)))
    with pytest.raises(InputError, match="'fisher' is a score"):
        controllers.register("fisher", extensions.ToyController)
    with pytest.raises(InputError, match="needs a formula"):
        Score("two", ("fisher", "obs"))
    with pytest.raises(InputError, match="an identifier"):
        Signal("not a name", lambda seen: seen["fisher"])
    register_signal(Signal("misshapen", lambda seen: seen["fisher"][0]))
    model = PlasticModel(build("gpt2"))
    with pytest.raises(InputError, match="'misshapen' must be a tensor"):
        measure(model, torch.randint(0, 128, (2, 8)), signals=("misshapen",))
    with pytest.raises(InputError, match="'toy_residual' needs signals measured with projectors"):
        measure(model, torch.randint(0, 128, (2, 8)), signals=("toy_residual",))


@pytest.mark.parametrize(
    "score", ["toy_score", "toy_mix", "fisher", "flap", "fisher_obs", "crossfit_kfac", "entropy_high"]
)
def test_a_score_is_the_same_for_rules_and_for_strategies(make, score):
    """A rule reads it from the observation, a strategy from the signals: both prune the same heads."""
    env = make("plasticity/Heads-v1", repair="none").unwrapped
    observation, _ = env.reset(seed=1)
    action = controllers.make(score, sparsity=0.5).act(observation)
    signals = env.get_state()["episode"].measurement.signals
    mask = select_for_pruning(env.model, 8, score, signals=signals)
    assert mask.flatten().tolist() == (np.asarray(action) == 1).tolist()


def test_a_strategy_measures_what_its_score_reads(ids):
    for name in ("toy_score", "toy_mix"):
        model = PlasticModel(build("gpt2"))
        seen = measure(model, ids, signals=("toy",))
        values = seen["toy"] if name == "toy_score" else -(seen["toy"] + seen["obs"])
        expected = values.flatten().argsort()[:3].sort().values
        mask = select_for_pruning(model, 3, name, input_ids=ids)
        assert mask.flatten().nonzero().flatten().tolist() == expected.tolist()


def test_strategies_of_ones_own_prune_and_grow(ids):
    model = PlasticModel(build("gpt2"))
    mask = select_for_pruning(model, 2, "toy_strategy")
    assert mask.nonzero().tolist() == [[1, 2], [1, 3]]
    model.prune(torch.tensor([[True, False, False, False], [True, False, False, False]]))
    result = grow_attention_heads_gradually(model, 0.1, "toy_growth", input_ids=ids, initial_weights="toy_weights")
    assert result.mask.nonzero().tolist() == [[1, 0]]
    assert str(result.sources[1, 0]) == "active unit 0 of layer 1"


def test_a_reward_and_a_repair_play(make, small_text):
    settings = {"reward": "toy_reward", "repair": "toy_repair"}
    env, plain = make(**settings), make()
    scores = np.linspace(-1, 1, 16, dtype=np.float32)
    for each in (env, plain):
        each.reset(seed=2)
    _, reward, *_, info = env.step(scores)
    assert reward == pytest.approx(2 * (np.log(1.0) + env.unwrapped.get_state()["episode"].reference[0] - info["loss"]))
    assert info["loss"] != pytest.approx(plain.step(scores)[-1]["loss"], rel=1e-4)  # another repair
    envs = gym.make_vec("plasticity/HeadRank-v1", num_envs=1, text=small_text, **RANK, **settings)
    envs.reset(seed=[2])
    assert envs.step(scores[None])[-1]["loss"][0] == pytest.approx(info["loss"], rel=1e-4)


def test_an_architecture_plays(small_text):
    loaded = load_model(SMALL["model_name"])
    theirs = loaded.model.model
    theirs.config.model_type = "toy_gpt2"
    with pytest.raises(InputError, match="unknown architecture 'toy_gpt2'"):
        find_layout("toy_gpt2")
    norms = {"attention_norm": "ln_1", "mlp_norm": "ln_2"}
    register_layout(
        "toy_gpt2", Layout("transformer.h", "attn", "c_proj", "fused", ("c_attn",), "mlp", ("c_fc",), "c_proj", **norms)
    )
    env = gym.make(
        "plasticity/Heads-v1",
        loaded=LoadedModel(PlasticModel(theirs), loaded.tokenizer, "toy"),
        text=small_text,
        **SMALL,
    )
    observation, _ = env.reset(seed=0)
    known = gym.make("plasticity/Heads-v1", text=small_text, **SMALL)
    assert np.allclose(observation["heads"], known.reset(seed=0)[0]["heads"], atol=1e-4)


def test_a_planner_plays(make):
    env = make(signals=())
    env.reset(seed=0)
    active = make_planner("toy_planner").plan(env)
    assert active.flatten().tolist() == [False] * 8 + [True] * 8
    for action in actions_to(env, active):
        env.step(action)
    assert torch.equal(env.unwrapped.get_state()["episode"].active, active)


@pytest.mark.parametrize("env", ["heads", "head_rank"])
def test_the_evaluation_command_plays_them(env, tmp_path):
    config = filled(
        CompareConfig,
        controllers="toy_score,toy_mix,toy_controller",
        repair="toy_repair",
        sparsities="0.25",
        seeds=1,
        env=env,
        calibration_blocks=4,
        test_blocks=4,
        max_length=32,
        tracking=TrackingOptions(track=False),
        output_dir=tmp_path,
    )
    rows = json.loads((compare(config) / "results.json").read_text())["rows"]
    assert [row["controller"] for row in rows] == ["toy_score", "toy_mix", "toy_controller"]
    assert all(row["active_heads"] == 12 and row["repair"] == "toy_repair" for row in rows)
    assert rows[0]["active"] == rows[2]["active"]  # both rank by the same signal
    assert rows[0]["active"] != rows[1]["active"]


def test_the_leaderboard_plays_them(tmp_path):
    players = "toy_score@1,toy_controller@1,toy_planner@1,fisher@1"
    config = fill(
        TINY,
        {
            "players": players,
            "shares": "0.5",
            "seeds": 1,
            "repair": "toy_repair",
            "output": tmp_path / "cells.jsonl",
        },
    )
    leaderboard(replace(config, tracking=TrackingOptions(track=False)))
    cells = {cell.player: cell for cell in cell_file(config.output).read()}
    assert set(cells) == set(players.split(","))
    assert cells["toy_score@1"].kept == cells["toy_controller@1"].kept
    assert cells["toy_planner@1"].kept == ((0,) * 4, (0,) * 4, (1,) * 4, (1,) * 4)
    prints = {name: cells[name].fingerprint for name in cells}
    assert prints["fisher@1"] == ""  # the package's own; of the others the file that defines them
    assert all(len(prints[name]) == 12 for name in prints if name != "fisher@1")


def test_an_agent_trains_a_controller_that_plays(tmp_path):
    small = {"calibration_blocks": 1, "reward_blocks": 1, "max_length": 16, "envs_per_model": 1, "horizon": 1}
    tracking, ppo = TrackingOptions(track=False), PPOConfig(width=8)
    config = TrainConfig(agent="toy_agent", output_dir=tmp_path / "run", tracking=tracking, ppo=ppo)
    folder = train(fill(config, small))
    player = f"{folder / 'controller'}@1"
    config = replace(TINY, players=player, shares="0.5", seeds=1, output=tmp_path / "cells.jsonl", tracking=tracking)
    leaderboard(config)
    (cell,) = cell_file(config.output).read()
    assert cell.player == player
    assert sum(map(sum, cell.kept)) == 8


def test_a_formula_changes_the_version_that_the_leaderboard_plays(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    prints = []
    for factor in ("1", "2"):
        (tmp_path / f"formula{factor}.py").write_text(f"def formula(units):\n    return {factor} * units['fisher']\n")
        module = __import__(f"formula{factor}")
        register_score(Score("changing", ("fisher",), module.formula))
        prints.append(fingerprint(Player("changing", "", 1), Player("changing", "", 1).make()))
    assert len(set(prints)) == 2


@pytest.mark.slow
def test_modules_in_the_environment_register_everywhere():
    """Slow: a process of its own imports torch, for modules named in the environment, as commands and workers start."""
    code = (
        "import gymnasium as gym; from plasticity_env import controllers; "
        "assert 'toy_score' in controllers.names(); assert 'toy_controller' in controllers.names()"
    )
    env = {**os.environ, "PLASTICITY_PLUGINS": "tests.extensions"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [["doctor"], ["prune", "--help"]])
def test_a_module_in_the_environment_that_is_missing_is_one_sentence(words):
    env = {**os.environ, "PLASTICITY_PLUGINS": "json, no_such_module"}
    line = [sys.executable, "-m", "plasticity_env", *words]
    done = subprocess.run(line, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: PLASTICITY_PLUGINS names 'no_such_module', which cannot be imported")


@pytest.mark.parametrize("text", ["import gone", "def (", "1 / 0"])
def test_a_module_in_the_environment_that_fails_is_an_input_error_wherever_names_are_looked_up(
    text, tmp_path, monkeypatch
):
    (tmp_path / "failing_plugin.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PLASTICITY_PLUGINS", "failing_plugin")
    plugins.load_plugins()
    try:
        for call in (
            lambda: plasticity_env.__getattr__("load_model"),
            lambda: gym.make("plasticity/Heads-v1", **SMALL),
        ):
            with pytest.raises(InputError, match="names 'failing_plugin', which cannot be imported"):
                call()
        assert plasticity_env.__version__
    finally:
        monkeypatch.setenv("PLASTICITY_PLUGINS", "")
        plugins.load_plugins()
    assert plasticity_env.load_model


def test_networks_read_no_column_that_comes_and_goes():
    assert not set(NETWORK_HEAD_FEATURES) & set(ADDED)
