"""CMA-ES over linear rankings: repeatable, resumable, and the controller is what was found."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from plasticity_env import controllers
from plasticity_env.agents.es import CONTROLLER, HISTORY, LinearSearch
from plasticity_env.agents.es_config import ESConfig
from plasticity_env.common.arguments import fill
from plasticity_env.common.errors import InputError
from plasticity_env.envs.observation import head_column
from tests.conftest import filled

SMALL = filled(
    ESConfig,
    model_name="bard-gpt2-4x4",
    population=4,
    scenarios=1,
    generations=3,
    rounds=(1,),
    calibration_blocks=2,
    reward_blocks=2,
    max_length=32,
)


def search(folder, **changes):
    return LinearSearch(fill(SMALL, changes), folder)


def test_a_cut_search_goes_on_as_if_it_had_not_been_cut(tmp_path):
    whole = search(tmp_path / "whole")
    whole.run()
    first = search(tmp_path / "cut", generations=1)
    first.run()
    second = search(tmp_path / "cut")
    second.resume()
    assert len(second.history) == 1
    second.run()
    assert [g.fitness for g in second.history] == [g.fitness for g in whole.history]
    np.testing.assert_array_equal(second.weights, whole.weights)
    assert whole.steps == 3 * (1 * 4 + 1)


def test_the_controller_ranks_by_the_weights(tmp_path):
    found = search(tmp_path, generations=1)
    found.run()
    controller = controllers.load(tmp_path / CONTROLLER)
    env = gym.make("plasticity/HeadRank-v1", model_name="bard-gpt2-4x4", max_length=32, horizon=1, calibration_blocks=2)
    observation, _ = env.reset(seed=0)
    score = sum(w * head_column(observation, name) for w, name in zip(found.weights, SMALL.features, strict=True))
    assert (np.argsort(controller.act(observation), kind="stable") == np.argsort(score, kind="stable")).all()
    assert controller.info["global_step"] == found.steps


def test_fitness_of_the_reference_itself_is_one(tmp_path):
    found = search(tmp_path, features=("fisher_z", "residual_fisher_z"))
    (scenario,) = found.scenarios(0)
    told = found._play(np.array([[1.0, 0.0]] * 4), [scenario])
    assert told.fitness == pytest.approx([1.0] * 4, abs=1e-4)


def test_refuses_what_it_cannot_use(tmp_path):
    with pytest.raises(InputError, match="unknown feature"):
        search(tmp_path, features=("fisher_zz",))
    with pytest.raises(InputError, match="start_feature"):
        search(tmp_path, start_feature="depth", features=("fisher_z",))
    with pytest.raises(InputError, match="population"):
        search(tmp_path, population=1)
    with pytest.raises(InputError, match="seed must be a whole number of at least 0, got -1"):
        search(tmp_path, seed=-1)
    found = search(tmp_path, generations=1)
    found.run()
    with pytest.raises(InputError, match="choose another --output_dir"):
        search(tmp_path, sigma=0.9).resume()
    (tmp_path / HISTORY).write_text("{")
    with pytest.raises(InputError, match="is not the history of a search"):
        search(tmp_path).resume()


def test_the_script_leaves_a_controller_and_goes_on(tmp_path, monkeypatch, capsys):
    path = str(Path(__file__).parents[2] / "scripts" / "train_es.py")
    small = [
        "--model_name",
        "bard-gpt2-4x4",
        "--population",
        "4",
        "--scenarios",
        "1",
        "--rounds",
        "1",
        "--max_length",
        "32",
    ]
    small += ["--calibration_blocks", "2", "--reward_blocks", "2", "--output_dir", str(tmp_path / "es")]
    for generations, steps in ((1, 5), (2, 10)):
        monkeypatch.setattr(sys, "argv", [path, *small, "--generations", str(generations)])
        runpy.run_path(path, run_name="__main__")
        assert f"({steps} environment steps)" in capsys.readouterr().out
    assert controllers.load(tmp_path / "es" / CONTROLLER).info["agent"] == "cma_es"
