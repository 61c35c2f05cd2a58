"""Residual scores: the regression behind them, and the slope of removing a unit together with its repair."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from plasticity_env import PlasticModel, mean_loss, measure
from plasticity_env.envs.observation import HEAD_FEATURES, head_column
from plasticity_env.envs.sharing import texts_kept
from plasticity_env.repair import RIDGE, least_squares
from plasticity_env.repair.whole import repair_model
from plasticity_env.signals.measure import gather
from plasticity_env.signals.moments import Moments
from plasticity_env.signals.residual import crossfit_projectors, model_projectors, residual_projector
from plasticity_env.signals.slopes import SCORES
from plasticity_env.strategies.pruning import ScoreStrategy, measure_for
from tests.conftest import ALL_SIGNALS, HEADS_ONLY, build, but


def test_the_projector_leaves_what_ridge_regression_on_the_kept_units_cannot_explain():
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    x = torch.randn(200, 12, generator=generator, dtype=torch.float64) @ mix
    kept = torch.tensor([1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 1, 1], dtype=torch.bool)
    gram = x.t() @ x / len(x)
    residual = (x @ residual_projector(gram[None], kept[None], 3).matrix[0].double()).view(-1, 4, 3)
    penalty = RIDGE * gram.diagonal().mean()
    for unit in (0, 2, 3):
        mine = torch.arange(3 * unit, 3 * unit + 3)
        others = torch.tensor([i for i in kept.nonzero().flatten().tolist() if i not in mine])
        stacked = torch.cat([x[:, others] / len(x) ** 0.5, penalty**0.5 * torch.eye(len(others)).double()])
        target = torch.cat([x[:, mine] / len(x) ** 0.5, torch.zeros(len(others), 3).double()])
        expected = x[:, mine] - x[:, others] @ torch.linalg.lstsq(stacked, target).solution
        assert torch.allclose(residual[:, unit], expected, atol=1e-4)
    assert residual[:, 1].abs().max() == 0


@but(*HEADS_ONLY)
@pytest.mark.parametrize("unit", [1, 5])
def test_the_slope_is_that_of_fading_a_unit_out_while_the_others_take_over(architecture, unit, ids):
    model = PlasticModel(build(architecture), mlp_blocks=4)
    statistics = measure(model, ids, statistics=True).statistics
    one = ids[:1]
    site = (model.mlps if unit >= model.heads else model.blocks)[1]
    column = unit - site.columns.start
    projectors = {
        index: residual_projector(
            moments.gram[None], torch.ones(1, len(moments.mean), dtype=torch.bool), model.sites[index].unit_width
        )
        for index, moments in statistics.sites.items()
    }
    signals = measure(model, one, projectors=projectors)
    kept = torch.ones(len(site.output_weight()), dtype=torch.bool)
    kept[column * site.unit_width : (column + 1) * site.unit_width] = False
    weight = site.output_weight().clone()
    seen = statistics.sites[site.index]
    repaired = least_squares(weight, Moments(seen.gram[None], seen.mean[None]), kept[None]).weight[0]
    repaired[~kept] = 0
    losses = []
    for step in (0.02, -0.02):
        site.output_weight().copy_(weight + step * (repaired - weight))
        losses.append(mean_loss(model, one))
    slope = abs(losses[0] - losses[1]) / 0.04
    assert float(signals.residual_gradient[1, unit]) == pytest.approx(slope, rel=0.05, abs=2e-4)
    assert float(signals.residual_fisher[1, unit]) == pytest.approx(slope**2, rel=0.1, abs=1e-5)


def test_a_copied_head_is_free_to_go(ids):
    """Two heads that say the same: each has a gate gradient, neither has a residual."""
    model = PlasticModel(build("gpt2"))
    for first, second in zip(model.pieces(0, 1, "unit"), model.pieces(0, 2, "unit"), strict=True):
        second.data.copy_(first.data)
    for first, second in zip(model.pieces(0, 1, "group"), model.pieces(0, 2, "group"), strict=True):
        second.data.copy_(first.data)
    statistics = measure(model, ids, statistics=True).statistics
    everything = torch.ones(1, 64, dtype=torch.bool)
    projectors = {i: residual_projector(m.gram[None], everything, 16, ridge=1e-4) for i, m in statistics.sites.items()}
    signals = measure(model, ids, projectors=projectors)
    assert signals.residual_fisher[0, 1] < 1e-4 * signals.fisher[0, 1]
    assert signals.residual_fisher[0, 2] < 1e-4 * signals.fisher[0, 2]
    assert signals.residual_fisher[0, 0] > 1e-3 * signals.fisher[0, 0]


def test_the_environment_measures_it_for_the_present_mask(make_env):
    env = make_env(repair="least_squares", **ALL_SIGNALS)
    observation, _ = env.reset(seed=0)
    assert (head_column(observation, "residual_fisher") > 0).all()
    action = np.zeros(16, dtype=np.int64)
    action[[0, 5]] = 1
    after, *_ = env.step(action)
    residual = head_column(after, "residual_fisher")
    assert (residual[[0, 5]] == 0).all()
    assert (np.delete(residual, [0, 5]) > 0).all()
    before = head_column(observation, "residual_fisher")
    assert not np.allclose(np.delete(residual, [0, 5]), np.delete(before, [0, 5]))
    off = make_env(repair="least_squares")
    silent, _ = off.reset(seed=0)
    assert (head_column(silent, "residual_fisher") == 0).all()
    assert np.allclose(head_column(silent, "fisher"), head_column(observation, "fisher"), rtol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_cross_fitted_scores_read_each_half_with_what_the_other_teaches(batch_size):
    model = PlasticModel(build("gpt2"))
    model.prune(
        torch.zeros(model.shape, dtype=torch.bool).index_put_((torch.tensor(1), torch.tensor(2)), torch.tensor(True))
    )
    ids = torch.randint(0, 32, (5, 16), generator=torch.Generator().manual_seed(1))
    with model.open_gates():
        statistics = [gather(model, part) for part in (ids[:2], ids[2:])]
    halves = [model_projectors(model, half) for half in statistics]
    found = measure(model, ids, batch_size=batch_size, projectors=halves[0], crossfit=(halves[1], halves[0]))
    first, second = measure(model, ids[:2], projectors=halves[1]), measure(model, ids[2:], projectors=halves[0])
    alone = measure(model, ids, projectors=halves[0]).residual_stepwise
    torch.testing.assert_close(found.residual_stepwise, alone, rtol=1e-3, atol=1e-9)
    assert (found.crossfit_stepwise >= found.crossfit_kfac * (1 - 1e-6)).all()
    for score in ("gradient", "fisher"):
        expected = (2 * getattr(first, f"residual_{score}") + 3 * getattr(second, f"residual_{score}")) / 5
        torch.testing.assert_close(getattr(found, f"crossfit_{score}"), expected, rtol=1e-3, atol=1e-9)
        plain = getattr(measure(model, ids, projectors=halves[0]), f"residual_{score}")
        torch.testing.assert_close(getattr(found, f"residual_{score}"), plain, rtol=1e-3, atol=1e-9)
    assert found.crossfit_fisher[1, 2] == 0
    assert measure(model, ids, projectors=halves[0]).crossfit_fisher is None


def test_what_repair_only_learns_by_heart_counts_in_the_cross_fitted_scores_alone(make_env):
    """With 2 x 16 tokens for 64 inputs the others predict a head on text that they were fitted on, and not on other text."""
    few, _ = make_env(repair="least_squares", calibration_blocks=2, max_length=16, **ALL_SIGNALS).reset(seed=0)
    many, _ = make_env(repair="least_squares", calibration_blocks=64, max_length=16, **ALL_SIGNALS).reset(seed=0)
    by_heart, learnt = (head_column(observation, "overfit") for observation in (few, many))
    assert by_heart.mean() > learnt.mean() + 0.3
    assert (head_column(few, "crossfit_fisher") > 0).all()


def test_both_halves_of_one_sequence_are_that_sequence(ids):
    model = PlasticModel(build("llama"))
    whole, halves = crossfit_projectors(model, ids[:1])
    for half in halves:
        for site, projector in whole.items():
            torch.testing.assert_close(half[site].matrix, projector.matrix)


def test_of_one_block_cross_fitted_scores_are_the_residual_ones(make_env):
    observation, _ = make_env(repair="least_squares", calibration_blocks=1, **ALL_SIGNALS).reset(seed=0)
    for score in SCORES:
        columns = (head_column(observation, f"{kind}_{score}") for kind in ("crossfit", "residual"))
        np.testing.assert_allclose(*columns, rtol=1e-4)
    assert np.allclose(head_column(observation, "overfit"), 0, atol=1e-3)


def test_without_the_setting_there_are_none_and_all_else_is_the_same(make_env):
    on, _ = make_env(repair="least_squares", **ALL_SIGNALS).reset(seed=0)
    off, _ = make_env(repair="least_squares", crossfit_signal=False, **ALL_SIGNALS).reset(seed=0)
    for name in HEAD_FEATURES:
        if "crossfit" in name or name == "overfit":
            assert (head_column(off, name) == 0).all()
            assert head_column(on, name).any()
        else:
            np.testing.assert_allclose(
                head_column(on, name), head_column(off, name), rtol=1e-3, atol=1e-3, err_msg=name
            )


@but(*HEADS_ONLY)
@pytest.mark.parametrize("blocks", [0, 4])
def test_moments_of_two_texts_are_remembered_where_they_fit_and_of_one_where_not(architecture, blocks, ids):
    model = PlasticModel(build(architecture), mlp_blocks=blocks)
    size = sum(moments.gram.nbytes + moments.mean.nbytes for moments in gather(model, ids).sites.values())
    assert texts_kept(model, budget=6 * size) == 6
    assert texts_kept(model, budget=6 * size - 1) == 3


@but(*HEADS_ONLY)
@pytest.mark.parametrize("units", [0, 4])
def test_the_stream_is_the_dense_one_under_repairs_too(architecture, units, ids):
    """Projections that already make up for pruned units would count them twice."""
    model = PlasticModel(build(architecture), mlp_blocks=units)
    mask = torch.zeros(model.shape, dtype=torch.bool)
    mask[0, :2] = mask[0, -1] = mask[1, 1] = True  # in the first layer, so that repairs change the stream behind it
    model.prune(mask)
    plain = crossfit_projectors(model, ids)
    scores = measure_for(model, ScoreStrategy("residual_fisher"), ids)
    repair_model(model, "least_squares", ids)
    repaired = crossfit_projectors(model, ids)
    for one, two in zip([plain[0], *plain[1]], [repaired[0], *repaired[1]], strict=True):
        for site, projector in one.items():
            assert torch.equal(projector.matrix, two[site].matrix)
    again = measure_for(model, ScoreStrategy("residual_fisher"), ids)
    expected = measure(model, ids, projectors=plain[0])
    assert torch.allclose(again.residual_fisher, expected.residual_fisher, rtol=1e-4)
    # the stream that is scored is the repaired one
    assert not torch.allclose(again.residual_fisher, scores.residual_fisher, rtol=1e-2)
