"""Thresholds by CMA-ES: every point of the cube is a rule, a search runs, and what it writes is what is played."""

from __future__ import annotations

import json

import numpy as np
import pytest

from plasticity_env import InputError, controllers
from plasticity_env.agents.studies.rule_tuning import START, ThresholdSearch, options_at, save
from plasticity_env.agents.studies.tuning_config import TuningConfig
from plasticity_env.controllers.rules import PlasticityController
from plasticity_env.controllers.tuned_rule import FILE, tuned_options
from tests.conftest import filled

QUICK = {
    "model_name": "bard-gpt2-4x4",
    "population": 4,
    "scenarios": 1,
    "generations": 2,
    "validation": 1,
    "rounds": "2",
}
TINY = {"calibration_blocks": 2, "reward_blocks": 2, "max_length": 32, "pruned_share": "0.5"}


def test_every_point_is_a_rule_and_the_ends_are_reached():
    random = np.random.default_rng(0)
    found = [options_at(point) for point in random.uniform(-0.1, 1.1, (200, 7))]
    for options in found:
        PlasticityController(**options)
    assert {each["prune_entropy"] for each in found} == {"low", "auto", "high"}
    assert {each["history"] for each in found} == {1, 2, 3, 4}
    assert {each["min_zeroed_epochs"] for each in found} == {0, 1, 2, 3, 4}
    start, classic = options_at(START), PlasticityController()
    assert start["aggressiveness"] == classic.aggressiveness
    assert start["prune_entropy"] == classic.prune_entropy
    assert start["gradient_power"] == classic.gradient_power


def test_a_search_is_repeatable_and_its_file_is_played(tmp_path):
    found = [ThresholdSearch(filled(TuningConfig, **QUICK, **TINY)).run() for _ in range(2)]
    assert found[0] == found[1]
    assert found[0].ratio > 0
    assert found[0].classic_ratio > 0
    assert len(found[0].best) == 2
    # two rounds each: two generations of four; three candidates on two scenarios; two rules; the reference on each of three
    assert found[0].steps == 2 * (2 * 4 + 2 * 3 + 2 + 3)
    save(tmp_path / "plasticity.json", filled(TuningConfig, **QUICK, **TINY), found[0])
    assert tuned_options(tmp_path / "plasticity.json") == found[0].options


def test_the_shipped_thresholds_are_played():
    rule = controllers.make("plasticity_tuned")
    assert isinstance(rule, PlasticityController)
    assert rule.name == "plasticity_tuned"
    for name, value in tuned_options().items():
        assert (rule._entropy.maxlen if name == "history" else getattr(rule, name)) == value
    assert controllers.make("plasticity_tuned", history=1)._entropy.maxlen == 1
    assert json.loads(FILE.read_text())["info"]["agent"] == "cma_es"


def test_files_that_hold_no_thresholds_are_refused(tmp_path):
    path = tmp_path / "plasticity.json"
    contents = ["", "[]", '{"format": 2, "options": {}}', '{"format": 1, "options": {"aggressiveness": 3}}']
    for content in [*contents, '{"format": 1, "options": {"cleverness": 1}}']:
        path.write_text(content)
        with pytest.raises(InputError, match="tuned thresholds"):
            tuned_options(path)
    with pytest.raises(InputError, match="tune_plasticity"):
        tuned_options(tmp_path / "none.json")


@pytest.mark.parametrize(
    "wrong", [{"population": 3}, {"seed": -1}, {"sigma": 0.0}, {"model_name": " "}, {"rounds": "0"}, {"reference": "x"}]
)
def test_refuses_what_it_cannot_search(wrong):
    with pytest.raises(InputError):
        ThresholdSearch(filled(TuningConfig, **{**QUICK, **TINY, **wrong}))
