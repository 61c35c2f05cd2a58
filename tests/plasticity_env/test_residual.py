"""Residual scores: the regression behind them, and the slope of removing a unit together with its repair."""

from __future__ import annotations

import pytest
import torch

from plasticity_env import PlasticModel, mean_loss, measure
from plasticity_env.repair import RIDGE, least_squares
from plasticity_env.residual import residual_projector
from tests.conftest import build


def test_the_projector_leaves_what_ridge_regression_on_the_kept_units_cannot_explain():
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    x = torch.randn(200, 12, generator=generator, dtype=torch.float64) @ mix
    kept = torch.tensor([1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 1, 1], dtype=torch.bool)
    gram = x.t() @ x / len(x)
    residual = (x @ residual_projector(gram, kept, 3).double()).view(-1, 4, 3)
    penalty = RIDGE * gram.diagonal().mean()
    for unit in (0, 2, 3):
        mine = torch.arange(3 * unit, 3 * unit + 3)
        others = torch.tensor([i for i in kept.nonzero().flatten().tolist() if i not in mine])
        stacked = torch.cat([x[:, others] / len(x) ** 0.5, penalty**0.5 * torch.eye(len(others)).double()])
        target = torch.cat([x[:, mine] / len(x) ** 0.5, torch.zeros(len(others), 3).double()])
        expected = x[:, mine] - x[:, others] @ torch.linalg.lstsq(stacked, target).solution
        assert torch.allclose(residual[:, unit], expected, atol=1e-4)
    assert residual[:, 1].abs().max() == 0


@pytest.mark.parametrize("unit", [1, 5])
def test_the_slope_is_that_of_fading_a_unit_out_while_the_others_take_over(architecture, unit, ids):
    model = PlasticModel(build(architecture), mlp_blocks=4)
    statistics = measure(model, ids, statistics=True).statistics
    one = ids[:1]
    site = model.sites[2 * 1 + (unit >= model.heads)]
    column = unit - site.columns.start
    projectors = {
        index: residual_projector(
            moments.gram, torch.ones(len(moments.mean), dtype=torch.bool), model.sites[index].unit_width
        )
        for index, moments in statistics.sites.items()
    }
    signals = measure(model, one, projectors=projectors)
    kept = torch.ones(len(site.output_weight()), dtype=torch.bool)
    kept[column * site.unit_width : (column + 1) * site.unit_width] = False
    weight = site.output_weight().clone()
    repaired = least_squares(weight, statistics.sites[2 + (unit >= model.heads)], kept).weight
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
    everything = torch.ones(64, dtype=torch.bool)
    projectors = {i: residual_projector(m.gram, everything, 16, ridge=1e-6) for i, m in statistics.sites.items()}
    signals = measure(model, ids, projectors=projectors)
    assert signals.residual_fisher[0, 1] < 1e-6 * signals.fisher[0, 1]
    assert signals.residual_fisher[0, 2] < 1e-6 * signals.fisher[0, 2]
    assert signals.residual_fisher[0, 0] > 1e-3 * signals.fisher[0, 0]


def test_the_environment_measures_it_for_the_present_mask(make_env):
    import numpy as np

    from plasticity_env.observation import head_column

    env = make_env(repair="least_squares")
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
    off = make_env(repair="least_squares", residual_signal=False)
    silent, _ = off.reset(seed=0)
    assert (head_column(silent, "residual_fisher") == 0).all()
    assert np.allclose(head_column(silent, "fisher"), head_column(observation, "fisher"), rtol=1e-4)
