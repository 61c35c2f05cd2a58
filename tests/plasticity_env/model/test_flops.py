"""FLOPs against torch's own counter, parameters against a count."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from plasticity_env import InputError, PlasticModel, flops
from plasticity_env.model.flops import flop_table, parameter_table
from tests.conftest import build


@pytest.mark.parametrize("tokens", [16, 64])
def test_dense_flops_are_within_one_percent_of_torchs_counter(architecture, tokens):
    stock = build(architecture)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        stock(torch.zeros(1, tokens, dtype=torch.long))
    counted = counter.get_total_flops() / tokens
    assert flops(PlasticModel(stock), tokens) == pytest.approx(counted, rel=0.01)


def test_marginal_costs_are_differences_of_totals(architecture):
    model = PlasticModel(build(architecture))
    active = torch.tensor([[True, False, False, False], [True, True, True, False]])
    for table in (flop_table(model, 32), parameter_table(model)):
        marginal = table.marginal(active)
        for layer in range(2):
            for head in range(4):
                flipped = active.clone()
                flipped[layer, head] = not flipped[layer, head]
                change = abs(table.total(flipped) - table.total(active))
                assert float(marginal[layer, head]) == pytest.approx(change)


def test_dense_parameters_are_counted_once(architecture):
    model = PlasticModel(build(architecture))
    counted = sum(p.numel() for p in model.model.parameters())
    assert parameter_table(model).total(model.active) == counted


@pytest.mark.parametrize("wrap", [PlasticModel, lambda stock: stock])
@pytest.mark.parametrize("tokens", [0, -1])
def test_a_sequence_without_a_token_is_refused(wrap, tokens):
    with pytest.raises(InputError, match=f"seq_len {tokens} is too short"):
        flops(wrap(build("gpt2")), tokens)
