"""Costs of heads are what removing each one by itself costs; a fit finds the ranking that made the costs."""

from __future__ import annotations

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch

from agents.head_costs import FEATURES, CostConfig, HeadCosts, costs_of_state, measure_costs
from agents.ranking_fit import FitConfig, fit_ranking, leave_one_out, soft_choice
from plasticity_env import InputError
from tests.conftest import SMALL

TINY = CostConfig("bard-gpt2-4x4", states=3, calibration_blocks=3, reward_blocks=2, max_length=32)
PAIR = FitConfig(features=("fisher_z", "entropy_z"), steps=120)


def made_up(path, weights=(1.0, -2.0), states=40, heads=12, seed=0):
    """Costs that are linear in two features, and a third that has nothing to do with them."""
    random = np.random.default_rng(seed)
    features = torch.from_numpy(random.normal(size=(states, heads, 3))).float()
    cost = features[..., :2] @ torch.tensor(weights)
    cost[0, :5] = torch.nan
    HeadCosts(("fisher_z", "entropy_z", "depth"), features, cost).save(path)
    return path


def test_costs_equal_an_environment_that_prunes_just_that_head(small_text):
    settings = {**SMALL, "text": small_text, "max_sparsity": 1.0, "disable_env_checker": True}
    env = gym.make("plasticity/Heads-v0", **settings).unwrapped
    env.reset(seed=4)
    first = np.zeros(env.head_slots, dtype=int)
    first[[2, 7]] = 1
    before = env.step(first)[4]["loss"]
    costs = costs_of_state(env)
    assert np.flatnonzero(np.isnan(costs)).tolist() == [2, 7]
    for head in (0, 5, 15):
        other = gym.make("plasticity/Heads-v0", **settings).unwrapped
        other.reset(seed=4)
        other.step(first)
        then = np.zeros(env.head_slots, dtype=int)
        then[head] = 1
        assert costs[head] == pytest.approx(other.step(then)[4]["loss"] - before, abs=2e-5)
    assert env.step(np.zeros(env.head_slots, dtype=int))[4]["loss"] == pytest.approx(before, abs=1e-6)


def test_measuring_goes_on_where_it_was_cut(tmp_path):
    (whole,) = measure_costs(TINY, tmp_path / "whole")
    measure_costs(replace(TINY, states=1), tmp_path / "cut")
    (cut,) = measure_costs(TINY, tmp_path / "cut")
    one, two = HeadCosts.load(whole), HeadCosts.load(cut)
    assert one.names == FEATURES
    assert one.features.shape == (3, 16, len(FEATURES))
    assert torch.equal(one.features, two.features)
    assert torch.equal(one.cost.nan_to_num(9.0), two.cost.nan_to_num(9.0))


def test_costs_of_other_measurements_are_not_mixed(tmp_path):
    (path,) = measure_costs(TINY, tmp_path)
    before = path.read_bytes()
    for change, said in (
        ({"reward_blocks": 3}, "reward_blocks=2, not 3"),
        ({"calibration_blocks": 2}, "calibration_blocks=3, not 2"),
        ({"dataset": "other.txt"}, "dataset='shakespeare', not 'other.txt'"),
        ({"max_length": 16}, "max_length=32, not 16"),
        ({"seed": 1}, "seed=0, not 1"),
    ):
        with pytest.raises(InputError, match=said):
            measure_costs(replace(TINY, states=5, **change), tmp_path)
    assert path.read_bytes() == before
    replace(HeadCosts.load(path), made={}).save(path)  # as files were that did not say
    assert measure_costs(replace(TINY, reward_blocks=3), tmp_path) == [path]


def test_a_models_file_has_its_whole_name(tmp_path):
    names = ("some/where/Model.Q4_1", "some/where/Model.Q8_0", "where/Model.Q4_1")
    features, cost = torch.zeros(1, 4, len(FEATURES)), torch.zeros(1, 4)
    for name in names:
        costs = HeadCosts(FEATURES, features, cost, TINY.made(name))
        costs.save(tmp_path / f"{name.replace('/', '_')}.safetensors")
    config = replace(TINY, model_name=",".join(names), states=1)
    assert len(set(measure_costs(config, tmp_path))) == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"temperature": 0.0}, "temperature must be a number above 0"),
        ({"features": ("fishr_z",)}, "unknown feature 'fishr_z' .did you mean 'fisher_z'"),
        ({"features": ()}, "unknown feature ''"),
    ],
)
def test_a_fit_that_cannot_be_made_is_refused(change, said):
    with pytest.raises(InputError, match=said):
        replace(PAIR, **change)


def test_one_model_has_no_others_and_seeds_begin_at_zero(tmp_path):
    with pytest.raises(InputError, match="name at least two"):
        leave_one_out([made_up(tmp_path / "a.safetensors")], PAIR)
    with pytest.raises(InputError, match="seed must be at least 0, got -1"):
        replace(TINY, seed=-1)


@pytest.mark.parametrize("temperature", [0.5, 0.05])
def test_soft_choices_sum_to_their_count_whatever_the_scores(temperature):
    scores = torch.randn(6, 10, generator=torch.Generator().manual_seed(0)).requires_grad_()
    known = torch.rand(6, 10, generator=torch.Generator().manual_seed(1)) > 0.2
    count = torch.tensor([1.0, 2.0, 2.5, 3.0, 4.0, 1.0])
    chosen = soft_choice(scores, known, count, temperature)
    assert torch.allclose(chosen.sum(1), count, atol=1e-3)
    assert (chosen[~known] == 0).all()
    (slope,) = torch.autograd.grad(chosen.sum(), scores)  # the sums are held, so they have no slope
    assert slope.abs().max() < 1e-3


def test_a_fit_finds_the_ranking_behind_the_costs(tmp_path):
    files = [made_up(tmp_path / f"{name}.safetensors", seed=seed) for seed, name in enumerate("ab")]
    controller = fit_ranking(files, PAIR)
    fisher, entropy = controller.network.linear.weight[0].tolist()
    assert fisher > 0
    assert entropy / fisher == pytest.approx(-2.0, rel=0.15)
    assert controller.network.linear.weight[1:].abs().max() == 0
    ratios = leave_one_out(files, PAIR)
    assert set(ratios) == {"a", "b"}
    # the cheapest heads gain here: both sums are below 0, the fitted ranking's further
    assert all(ratio > 1.5 for each in ratios.values() for ratio in each)


def test_a_ranking_that_lacks_a_feature_is_told_so(tmp_path):
    files = [made_up(tmp_path / "a.safetensors")]
    with pytest.raises(InputError, match="lacks the feature 'obs_z'"):
        fit_ranking(files, replace(PAIR, features=("obs_z",)))
    (tmp_path / "b.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InputError, match="holds no costs"):
        HeadCosts.load(tmp_path / "b.safetensors")
