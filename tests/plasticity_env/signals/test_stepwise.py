"""Backward stepwise elimination, against regressions and sums over rows done one by one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity_env.signals.stepwise import eliminate

TOKENS = 300


def rows(seed, sites, inputs):
    generator = torch.Generator().manual_seed(seed)
    plain, mix = (torch.randn(sites, size, inputs, generator=generator).double() for size in (TOKENS, inputs))
    return plain @ (torch.eye(inputs).double() + 0.2 * mix)


def inverse_of(x, kept, ridge):
    """(sites, I, I): of the kept inputs' second moments, 0 elsewhere."""
    found = torch.zeros(len(x), x.shape[2], x.shape[2]).double()
    for site, stay in enumerate(kept):
        inside = stay.nonzero()[:, 0]
        gram = x[site][:, inside].T @ x[site][:, inside] / len(x[site])
        found[site][inside[:, None], inside] = torch.linalg.inv(gram + ridge * torch.eye(len(inside)).double())
    return found


def joint_cost(x, h, kept, units, width, ridge):
    """K-FAC of a set of kept units that go together while the other kept ones make up for them."""
    gone = [unit * width + offset for unit in units for offset in range(width)]
    others = [index for index in kept.nonzero()[:, 0].tolist() if index not in gone]
    residual = x[:, gone]
    if others:
        system = x[:, others].T @ x[:, others] + TOKENS * ridge * torch.eye(len(others)).double()
        residual = residual - x[:, others] @ torch.linalg.solve(system, x[:, others].T @ x[:, gone])
    return float(((residual.T @ residual) * (h[:, gone].T @ h[:, gone])).sum())


@given(seed=st.integers(0, 2**16), width=st.integers(1, 3), pruned=st.lists(st.integers(0, 4), max_size=4, unique=True))
@settings(max_examples=25, deadline=None)
def test_a_turn_costs_what_it_adds_to_the_cost_of_all_that_went_before(seed, width, pruned):
    units, sites = 5, 3
    x, h = rows(seed, sites, units * width), rows(seed + 1, sites, units * width)
    kept = torch.ones(sites, units * width, dtype=torch.bool)
    for unit in pruned:  # of the first site only: sites of unlike masks are solved apart
        kept[0, unit * width : (unit + 1) * width] = False
    ridge = 1e-9  # with one, or on other text, cross terms between turns are left out
    alone, in_turn = eliminate(inverse_of(x, kept, ridge), x.mT @ x, h.mT @ h, width)
    for site in range(sites):
        there = [unit for unit in range(units) if kept[site, unit * width]]
        assert alone[site].nonzero()[:, 0].tolist() == in_turn[site].nonzero()[:, 0].tolist() == there
        went, before, level = [], 0.0, 0.0
        for unit in there:
            expected = joint_cost(x[site], h[site], kept[site], [unit], width, ridge)
            assert float(alone[site, unit]) == pytest.approx(expected, rel=1e-4)
        while len(went) < len(there):
            costs = {
                unit: joint_cost(x[site], h[site], kept[site], [*went, unit], width, ridge) - before
                for unit in there
                if unit not in went
            }
            chosen = min(costs, key=lambda unit: costs[unit])
            level = max(level, costs[chosen])
            assert float(in_turn[site, chosen]) == pytest.approx(level, rel=1e-4)
            before += costs[chosen]
            went.append(chosen)


def test_of_two_that_say_the_same_the_second_is_dear():
    """Alone each copy is free; in turn one is free and the other one costs what both carry."""
    x, h = rows(0, 1, 8), rows(1, 1, 8)
    x[:, :, 4:6] = x[:, :, 2:4]
    inverse = inverse_of(x, torch.ones(1, 8, dtype=torch.bool), 1e-6)
    alone, in_turn = eliminate(inverse, x.mT @ x, h.mT @ h, 2)
    assert alone[0, 1] < 1e-6 * alone[0, 0]
    assert alone[0, 2] < 1e-6 * alone[0, 0]
    cheap, dear = sorted(in_turn[0, 1:3].tolist())
    assert cheap == pytest.approx(float(alone[0, 1:3].min()))
    assert dear > 0.5 * float(alone[0, 0])


def test_without_units_nothing_is_priced():
    nothing = torch.zeros(2, 6, 6, dtype=torch.float64)
    full = torch.eye(6).expand(2, 6, 6)
    for found in eliminate(nothing, full, full, 3):
        assert found.tolist() == [[0, 0], [0, 0]]
