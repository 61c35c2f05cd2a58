"""Levels of toy models: their FLOPs are the project's, their prices those of masks that were really measured."""

from __future__ import annotations

import pytest
import torch

from plasticity_env import InputError
from plasticity_env.model.flops import flop_table
from plasticity_env.strategies.level_table import measure_levels, whole_costs
from plasticity_env.strategies.output_errors import OutputErrors
from tests.plasticity_env.envs.toy_models import (
    ARCHITECTURES,
    BLOCKS,
    HEADS,
    TOKENS,
    flops_by_hand,
    toy_model,
    toy_text,
)

F, S = slice(0, 3), slice(3, 6)


@pytest.fixture(params=ARCHITECTURES)
def architecture(request):
    return request.param


def tables(architecture, blocks=BLOCKS):
    model = toy_model(architecture, blocks).model
    return model, measure_levels(model, toy_text().blocks("calibration"), batch_size=2)


def test_a_choice_of_levels_is_a_mask_and_costs_what_the_model_saves(architecture):
    """In llama's toy the two heads of a layer share keys and values, which go with the second."""
    model, table = tables(architecture)
    dense = flops_by_hand(architecture, torch.ones(2, HEADS + BLOCKS, dtype=torch.bool))
    assert [site.kind for site in table.sites] == ["attention", "mlp", "attention", "mlp"]
    assert table.deepest.tolist() == [2, 2, 2, 2]
    for levels in ((0, 0, 0, 0), (1, 0, 2, 1), (2, 2, 1, 0), (1, 1, 1, 1)):
        active = table.mask(levels)
        assert table.levels(active).tolist() == list(levels)
        assert table.cost(levels) == dense - flops_by_hand(architecture, active)
        assert table.cost(levels) % table.step == 0
    steps = table.sites[0].costs
    assert (steps[2] - steps[1] > steps[1]) == (architecture == "llama")
    assert table.whole == dense - flop_table(model, TOKENS).base
    for site in table.sites:
        assert sorted(site.order) == sorted(range(*((0, 2) if site.kind == "attention" else (2, 4))))
        assert (site.prices[1:] > 0).all()
        assert (site.prices[1:] >= site.prices[:-1]).all()


def test_a_mask_out_of_order_is_no_level():
    _, table = tables("gpt2", 0)
    active = torch.ones(2, 2, dtype=torch.bool)
    active[1, table.sites[1].order[1]] = False
    with pytest.raises(InputError, match="out of the order"):
        table.levels(active)


def test_units_may_be_counted_instead_of_flops():
    _, table = tables("llama")
    counted = table.counting(torch.ones(2, 4))
    assert counted.whole == 8
    assert counted.step == 1
    assert counted.cost((1, 0, 2, 2)) == 5
    with pytest.raises(InputError, match="fraction"):
        whole_costs(torch.tensor([0.5]))


def test_prices_are_of_text_that_the_fit_did_not_read():
    """The whole site gone, nothing is predicted: its price is the same whatever the fit has read; on the way there it is not."""
    model = toy_model("gpt2").model
    ids, other = toy_text().blocks("calibration"), toy_text().blocks("train")
    apart, another = measure_levels(model, ids, other[:3]), measure_levels(model, ids, other[3:])
    for one, two in zip(apart.sites, another.sites, strict=True):
        assert one.prices[2] == pytest.approx(two.prices[2], rel=1e-5)
        assert one.order != two.order or one.prices[1] != pytest.approx(two.prices[1], rel=1e-3)
    halves = [measure_levels(model, ids[half], ids[rest]) for half, rest in ((F, S), (S, F))]
    crossed = measure_levels(model, ids)
    for number, site in enumerate(crossed.sites):
        mean = sum(half.sites[number].prices[2] for half in halves) / 2
        assert site.prices[2] == pytest.approx(mean, rel=1e-5)
    with pytest.raises(InputError, match="at least 2 calibration blocks"):
        measure_levels(model, ids[:1])


def test_prices_of_outputs_are_what_a_refitted_output_loses():
    """By hand: rows of the fit's text predict what goes, and the squared error is counted on the other text."""
    model = toy_model("gpt2").model
    priced, fitted = toy_text().blocks("calibration"), toy_text().blocks("train")[:3]
    table = measure_levels(model, priced, fitted, ridge=0.01, of_outputs=True)
    errors = OutputErrors(model, priced, fitted, ridge=0.01)
    for site, levels in zip((site for site in model.sites if site.gated), table.sites, strict=True):
        fit, price = inputs_of(model, site, fitted), inputs_of(model, site, priced)
        weight = site.output_weight().double()
        whole = (price @ weight).square().sum()
        gram = fit.T @ fit / len(fit)
        ridge = 0.01 * gram.diagonal().mean()
        for level in range(1, len(levels.order) + 1):
            kept = torch.ones(len(weight), dtype=torch.bool)
            for column in levels.order[:level]:
                unit = column - site.columns.start
                kept[unit * site.unit_width : (unit + 1) * site.unit_width] = False
            system = gram[kept][:, kept] + ridge * torch.eye(int(kept.sum()), dtype=torch.float64)
            lost = price[:, ~kept]
            if kept.any():
                lost = lost - price[:, kept] @ torch.linalg.solve(system, gram[kept][:, ~kept])
            by_hand = (lost @ weight[~kept]).square().sum() / whole
            gone = ~kept.view(-1, site.unit_width).all(1)
            assert errors.of(site, gone.expand(2, -1)).tolist() == [pytest.approx(float(by_hand), rel=1e-4)] * 2
            assert levels.prices[level] >= float(by_hand) * (1 - 1e-4)
            if level == len(levels.order):
                assert levels.prices[level] == pytest.approx(1.0, rel=1e-4)  # nothing of the output is left
            else:
                assert levels.prices[level] == pytest.approx(float(by_hand), rel=1e-4)


def inputs_of(model, site, ids):
    """(tokens, I) float64 of what a site's projection reads in the dense model."""
    read = []
    hook = site.output.register_forward_pre_hook(
        lambda module, args: read.append(args[0].detach().reshape(-1, args[0].shape[-1]).double())
    )
    with torch.no_grad():
        model.model(input_ids=ids)
    hook.remove()
    return torch.cat(read)
