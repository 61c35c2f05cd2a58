"""Prices of levels, against residuals and sums over rows done one by one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity_env.signals.level_prices import level_prices
from plasticity_env.signals.stepwise import eliminate, removal_turns
from tests.plasticity_env.signals.test_stepwise import TOKENS, inverse_of, joint_cost, rows

UNITS, SITES = 4, 2


def priced_by_hand(fit, x, h, gone, ridge):
    """What inputs that go cost on one text when the others make up for them as they do on another text."""
    others = [index for index in range(x.shape[1]) if index not in gone]
    residual = x[:, gone]
    if others:
        system = fit[:, others].T @ fit[:, others] / TOKENS + ridge * torch.eye(len(others)).double()
        residual = residual - x[:, others] @ torch.linalg.solve(system, fit[:, others].T @ fit[:, gone] / TOKENS)
    return float(((residual.T @ residual) * (h[:, gone].T @ h[:, gone])).sum())


@given(seed=st.integers(0, 2**16), width=st.integers(1, 3), ridge=st.sampled_from((1e-3, 0.1)))
@settings(max_examples=15, deadline=None)
def test_a_level_costs_what_its_residual_costs_on_another_text(seed, width, ridge):
    fit, x, h = (rows(seed + number, SITES, UNITS * width) for number in range(3))
    order = torch.stack([torch.randperm(UNITS, generator=torch.Generator().manual_seed(seed)) for _ in range(SITES)])
    inverse = inverse_of(fit, torch.ones(SITES, UNITS * width, dtype=torch.bool), ridge)
    prices = level_prices(inverse, x.mT @ x, h.mT @ h, order, width)
    assert prices.shape == (SITES, UNITS + 1)
    for site in range(SITES):
        assert float(prices[site, 0]) == 0.0
        for level in range(1, UNITS + 1):
            gone = [unit * width + offset for unit in order[site, :level].tolist() for offset in range(width)]
            expected = priced_by_hand(fit[site], x[site], h[site], gone, ridge)
            assert float(prices[site, level]) == pytest.approx(expected, rel=1e-6)


def test_units_go_in_the_order_of_the_elimination():
    """On one text without a ridge the prices of turns add up to those of levels."""
    x, h = rows(3, SITES, UNITS * 2), rows(4, SITES, UNITS * 2)
    whole = torch.ones(SITES, UNITS * 2, dtype=torch.bool)
    given_ = inverse_of(x, whole, 1e-9), x.mT @ x, h.mT @ h
    turns = removal_turns(*given_, 2)
    _, in_turn = eliminate(*given_, 2)
    order = turns.argsort(1)
    prices = level_prices(*given_, order, 2)
    for site in range(SITES):
        assert sorted(turns[site].tolist()) == list(range(UNITS))
        for level in range(1, UNITS + 1):
            gone = order[site, :level].tolist()
            assert float(prices[site, level]) == pytest.approx(
                joint_cost(x[site], h[site], whole[site], gone, 2, 1e-9), rel=1e-4
            )
        rises = prices[site].diff()
        assert float(in_turn[site, order[site, 0]]) == pytest.approx(float(rises[0]), rel=1e-4)
        assert float(in_turn[site, order[site, -1]]) == pytest.approx(float(rises.max()), rel=1e-4)
