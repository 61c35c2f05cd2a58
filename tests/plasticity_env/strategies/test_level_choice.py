"""Choices of levels, against all choices of toy tables tried out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity_env import InputError
from plasticity_env.strategies.level_choice import (
    Room,
    cheapest_levels,
    knapsack_levels,
    nearest_levels,
    threshold_levels,
)
from plasticity_env.strategies.level_table import LevelTable, SiteLevels, measure_levels
from tests.plasticity_env.envs.toy_models import BLOCKS, toy_model, toy_text


def invented(seed: int, layers: int = 2, units: int = 2, group: int = 1) -> LevelTable:
    """Two layers with heads, of which the last of a layer costs more, and blocks; prices are made up and may bend either way."""
    random = np.random.default_rng(seed)
    head, block = (int(random.integers(2, 7)) * 6 for _ in range(2))
    sites = []
    for layer in range(layers):
        for kind, cost in (("attention", head), ("mlp", block)):
            costs = np.arange(units + 1) * cost
            costs[-1] += 18 * group * (kind == "attention")
            prices = np.concatenate([[0.0], random.exponential(size=units).cumsum()])
            columns = tuple(range(units) if kind == "attention" else range(units, 2 * units))
            sites.append(SiteLevels(layer, kind, columns, prices, costs))
    return LevelTable(tuple(sites), (layers, 2 * units))


def allowed(table: LevelTable, room: Room) -> list[tuple[int, ...]]:
    """All choices within the room that cost the most, one by one."""
    ranges = [range(low, high + 1) for low, high in zip(room.lowest, room.highest, strict=True)]
    choices = [levels for levels in itertools.product(*ranges) if table.cost(levels) <= room.due]
    heads = [index for index in range(len(table.sites)) if table.holds_heads[index]]
    choices = [levels for levels in choices if any(levels[index] < table.deepest[index] for index in heads)]
    most = max(table.cost(levels) for levels in choices)
    return [levels for levels in choices if table.cost(levels) > most - max(1, room.slack)]


@given(seed=st.integers(0, 2**16), share=st.floats(0, 1), least=st.integers(0, 1), units=st.integers(2, 3))
@settings(max_examples=60, deadline=None)
def test_the_knapsack_finds_what_trying_everything_finds(seed, share, least, units):
    table = invented(seed, units=units)
    room = Room.within(table, share * table.whole, least)
    best = min(map(table.price, allowed(table, room)))
    found = knapsack_levels(table, room)
    assert tuple(found) in allowed(table, room)
    assert table.price(found) == pytest.approx(best, abs=1e-12)


@given(seed=st.integers(0, 2**16), share=st.floats(0.2, 1), units=st.integers(2, 3))
@settings(max_examples=40, deadline=None)
def test_with_slack_a_choice_may_cost_less_by_less_than_the_cheapest_unit(seed, share, units):
    table = invented(seed, units=units)
    least = min(int(step) for site in table.sites for step in np.diff(site.costs))
    assert table.least == least
    room = Room.within(table, share * table.whole, 1, slack=table.least)
    exact = Room.within(table, share * table.whole, 1)
    found = knapsack_levels(table, room)
    assert tuple(found) in allowed(table, room)
    assert table.price(found) == pytest.approx(min(map(table.price, allowed(table, room))), abs=1e-12)
    assert table.price(found) <= table.price(knapsack_levels(table, exact))
    assert set(allowed(table, exact)) <= set(allowed(table, room))


def test_costs_without_a_common_divisor_leave_few_exact_choices():
    """Heads of 16 and blocks of 33: of 298 the most is 297 = 9 x 33 and no head, however cheap heads are."""
    costs = {"attention": 16, "mlp": 33}
    prices = {"attention": 0.001, "mlp": 1.0}
    sites = tuple(
        SiteLevels(
            0, kind, tuple(range(10 * number, 10 * number + 10)), np.arange(11) * prices[kind], np.arange(11) * cost
        )
        for number, (kind, cost) in enumerate(costs.items())
    )
    table = LevelTable(sites, (1, 20))
    assert knapsack_levels(table, Room.within(table, 298)).tolist() == [0, 9]
    assert knapsack_levels(table, Room.within(table, 298, slack=table.least)).tolist() == [8, 5]


@given(seed=st.integers(0, 2**16), share=st.floats(0.3, 1))
@settings(max_examples=30, deadline=None)
def test_what_is_gone_for_good_stays_so(seed, share):
    table = invented(seed)
    lowest = np.array([1, 0, 0, 1])
    room = Room.within(table, max(share * table.whole, table.cost(lowest)), 0, lowest)
    found = knapsack_levels(table, room)
    assert (found >= lowest).all()
    assert table.price(found) == pytest.approx(min(map(table.price, allowed(table, room))), abs=1e-12)
    with pytest.raises(InputError, match="costs more than"):
        knapsack_levels(table, Room.within(table, table.cost(lowest) - table.step, 0, lowest))


@given(seed=st.integers(0, 2**16), share=st.floats(0, 1), asked=st.tuples(*[st.integers(0, 2)] * 4))
@settings(max_examples=40, deadline=None)
def test_the_nearest_choice_is_the_nearest_and_of_those_the_cheapest(seed, share, asked):
    table = invented(seed)
    room = Room.within(table, share * table.whole)

    def distance(levels):
        pairs = zip(table.sites, levels, asked, strict=True)
        apart = sum(abs(int(site.costs[level] - site.costs[wanted])) for site, level, wanted in pairs)
        return apart, round(table.price(levels), 9)

    found = nearest_levels(table, np.array(asked), room)
    assert distance(found) == min(map(distance, allowed(table, room)))


def test_one_threshold_a_cost_is_a_knapsack_where_it_comes_out_even():
    """Where prices bend upwards and the budget is what stretches cost, a threshold is the best choice."""
    table = invented(0)
    bent = [
        np.array([0.0, 1.0, 4.0]),
        np.array([0.0, 2.0, 7.0]),
        np.array([0.0, 5.5, 12.0]),
        np.array([0.0, 6.0, 13.0]),
    ]
    pairs = zip(table.sites, bent, strict=True)
    even = LevelTable(tuple(SiteLevels(s.layer, s.kind, s.order, p, np.arange(3) * 6) for s, p in pairs), table.shape)
    wanted = [(0, 0, 0, 0), (1, 0, 0, 0), (1, 1, 0, 0), (2, 1, 0, 0), (2, 2, 0, 0), (2, 2, 1, 0)]
    for gone, levels in enumerate(wanted):
        room = Room.within(even, 6 * gone)
        assert tuple(threshold_levels(even, room)) == levels == tuple(knapsack_levels(even, room))


def test_a_threshold_passes_over_a_price_that_is_high_alone_and_low_with_the_next_one():
    costs = np.array([0, 6, 12])
    prices = ([0.0, 5.0, 5.0], [0.0, 3.0, 6.0])
    sites = [SiteLevels(layer, "attention", (0, 1), np.array(prices[layer]), costs) for layer in range(2)]
    table = LevelTable(tuple(sites), (2, 2))
    assert tuple(threshold_levels(table, Room.within(table, 12))) == (2, 0)
    assert tuple(threshold_levels(table, Room.within(table, 6))) == (0, 1)  # the stretch of two does not fit


@given(seed=st.integers(0, 2**16), share=st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_a_threshold_reaches_the_budget_and_is_never_better_than_the_knapsack(seed, share):
    table = invented(seed)
    room = Room.within(table, share * table.whole)
    found = threshold_levels(table, room)
    assert tuple(found) in allowed(table, room)
    assert table.price(found) >= table.price(knapsack_levels(table, room)) - 1e-12


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_the_grid_is_that_of_a_models_own_units(architecture):
    """A measured table: heads, shared keys and values, and blocks; every budget against all 80 choices."""
    table = measure_levels(toy_model(architecture, BLOCKS).model, toy_text().blocks("calibration"))
    for share in np.linspace(0.05, 0.95, 13):
        room = Room.within(table, share * table.whole)
        found = knapsack_levels(table, room)
        assert tuple(found) in allowed(table, room)
        assert table.price(found) == pytest.approx(min(map(table.price, allowed(table, room))), rel=1e-12)
        assert int((~table.mask(found)).sum()) == int(found.sum())
        assert bool(table.mask(found)[:, :2].any())


def test_a_grid_that_is_too_fine_is_refused():
    costs = [np.array([0, 2**23 + 1]), np.array([0, 2**23])]
    sites = [SiteLevels(layer, "attention", (0,), np.array([0.0, 1.0]), costs[layer]) for layer in range(2)]
    table = LevelTable(tuple(sites), (2, 1))
    with pytest.raises(InputError, match="too many to search exactly"):
        cheapest_levels(table, [site.prices for site in sites], Room.within(table, 2**23))
    assert torch.equal(table.mask((1, 0)), torch.tensor([[False], [True]]))
