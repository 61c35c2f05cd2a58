"""Repair: closed forms against brute force, exactness of undoing, and that it helps."""

from __future__ import annotations

import pytest
import torch

from plasticity_env import InputError, PlasticModel, load_model, load_text, mean_loss, measure
from plasticity_env.repair import Moments, bias, least_squares, repair_sites
from tests.conftest import build


def test_least_squares_minimises_its_objective():
    generator = torch.Generator().manual_seed(0)
    x = (
        torch.randn(200, 12, generator=generator, dtype=torch.float64)
        @ torch.randn(12, 12, generator=generator).double()
    )
    weight = torch.randn(12, 5, generator=generator, dtype=torch.float64)
    gram, kept = x.t() @ x / len(x), torch.arange(12) % 3 != 0
    repaired = least_squares(weight, Moments(gram, x.mean(0)), kept, ridge=0.01).weight
    penalty = 0.01 * gram.diagonal().mean()
    free = weight[kept].clone().requires_grad_()
    residual = x[:, kept] @ free - x @ weight
    objective = residual.square().sum() / len(x) + penalty * (free - weight[kept]).square().sum()
    (slope,) = torch.autograd.grad(objective, free)
    at_repair = (x[:, kept] @ repaired[kept] - x @ weight).square().sum() / len(x) + penalty * (
        repaired[kept] - weight[kept]
    ).square().sum()
    assert at_repair < objective
    free2 = repaired[kept].clone().requires_grad_()
    again = (x[:, kept] @ free2 - x @ weight).square().sum() / len(x) + penalty * (free2 - weight[kept]).square().sum()
    (zero,) = torch.autograd.grad(again, free2)
    assert zero.abs().max() < 1e-8 * slope.abs().max()
    assert torch.equal(repaired[~kept], weight[~kept])


def test_bias_repair_is_the_mean_output_of_what_was_pruned():
    weight, mean = torch.randn(6, 3).double(), torch.randn(6).double()
    kept = torch.tensor([True, True, False, False, True, True])
    moments = Moments(torch.eye(6).double(), mean)
    assert torch.allclose(bias(weight, moments, kept).bias, mean[2:4] @ weight[2:4])


@pytest.mark.parametrize("method", ["bias", "least_squares"])
def test_revive_undoes_repair_exactly(architecture, method, ids):
    model = PlasticModel(build(architecture))
    signals = measure(model, ids, statistics=True)
    with torch.no_grad():
        dense = model(ids).logits
        mask = torch.zeros(2, 4, dtype=torch.bool)
        mask[0, 1] = mask[1, 0] = mask[1, 3] = True
        model.prune(mask)
        pruned = model(ids).logits
        repair_sites(model, method, signals.statistics)
        assert not torch.equal(model(ids).logits, pruned)
        snapshot = model.snapshot()
        repaired = model(ids).logits
        model.revive(mask)
        assert torch.equal(model(ids).logits, dense)
        model.restore(snapshot)
        assert torch.allclose(model(ids).logits, repaired, atol=1e-6)
        model.undo_repair()
        model.revive(mask)
        assert torch.equal(model(ids).logits, dense)


def test_repair_lowers_the_loss_on_text_it_never_saw():
    model, tokenizer, _ = load_model("bard-gpt2-4x4")
    text = load_text("shakespeare", tokenizer, block_size=128)
    calibration, held_out = text.blocks("calibration")[:32], text.blocks("reward")[:16]
    signals = measure(model, calibration, statistics=True)
    dense = mean_loss(model, held_out)
    order = signals.fisher.flatten().argsort()
    mask = torch.zeros(model.active.numel(), dtype=torch.bool)
    mask[order[:5]] = True
    losses = {}
    for method in ("none", "bias", "least_squares"):
        model.undo_repair()
        model.set_active(~mask.view(model.shape))
        if method != "none":
            repair_sites(model, method, signals.statistics)
        losses[method] = mean_loss(model, held_out) - dense
    assert losses["least_squares"] < losses["bias"] < losses["none"]
    assert losses["least_squares"] < 0.7 * losses["none"]


def test_statistics_that_are_not_finite_are_refused():
    gram = torch.full((4, 4), float("nan"), dtype=torch.float64)
    with pytest.raises(InputError, match="not finite"):
        least_squares(torch.zeros(4, 2), Moments(gram, gram[0]), torch.tensor([True, True, False, False]))
