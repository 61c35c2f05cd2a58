"""Strategies that prune: exactly as many heads as asked for, the right ones, from one registry."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity_env import InputError, PlasticModel, measure
from plasticity_env.strategies import (
    PRUNING_STRATEGIES,
    AttentionEntropyStrategy,
    HeadView,
    PriorityStrategy,
    select_for_pruning,
)
from tests.conftest import build

READS = {
    "magnitude": "magnitude",
    "activation": "activation",
    "gradient": "gradient",
    "fisher": "fisher",
    "obs": "obs",
    "entropy_low": "entropy_normalized",
}


@pytest.mark.parametrize("name", sorted(READS))
def test_the_lowest_score_goes_first(name, ids):
    model = PlasticModel(build("gpt2"))
    score = getattr(measure(model, ids), READS[name]).flatten().tolist()
    for count in range(9):
        mask = select_for_pruning(model, count, name, input_ids=ids)
        expected = sorted(range(8), key=lambda head: score[head])[:count]
        assert mask.flatten().nonzero().flatten().tolist() == sorted(expected)
    assert bool(model.active.all())  # choosing edits nothing


def test_residual_fisher_spares_the_head_that_no_other_can_stand_in_for(ids):
    model = PlasticModel(build("gpt2"))
    for kind in ("unit", "group"):  # heads 1 and 2 of layer 0 say the same
        for first, second in zip(model.pieces(0, 1, kind), model.pieces(0, 2, kind), strict=True):
            second.data.copy_(first.data)
    mask = select_for_pruning(model, 1, "residual_fisher", input_ids=ids)
    assert mask.nonzero().tolist() in ([[0, 1]], [[0, 2]])
    with pytest.raises(InputError, match="with projectors"):
        select_for_pruning(model, 1, "residual_fisher", signals=measure(model, ids))


def test_entropy_has_two_directions(ids):
    model = PlasticModel(build("gpt2"))
    high = select_for_pruning(model, 4, AttentionEntropyStrategy("high"), input_ids=ids)
    assert torch.equal(high, ~select_for_pruning(model, 4, "entropy_low", input_ids=ids))
    with pytest.raises(InputError, match="known are high, low"):
        AttentionEntropyStrategy("hihg")


def test_pruned_heads_are_not_chosen_again(ids):
    model = PlasticModel(build("llama"))
    model.prune(select_for_pruning(model, 3, "fisher", input_ids=ids))
    again = select_for_pruning(model, 5, "fisher", input_ids=ids)
    assert torch.equal(again, model.active)
    with pytest.raises(InputError, match="5 are active"):
        select_for_pruning(model, 6, "fisher", input_ids=ids)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 255), st.integers(0, 8), st.integers(0, 1000))
def test_random_chooses_as_many_as_asked_among_the_candidates(bits, count, seed):
    candidates = torch.tensor([bits >> i & 1 for i in range(8)], dtype=torch.bool).view(2, 4)
    count = min(count, int(candidates.sum()))
    view = HeadView(candidates, 4, torch.Generator().manual_seed(seed))
    mask = PRUNING_STRATEGIES["random"]().select(view, candidates, count)
    assert int(mask.sum()) == count
    assert not bool((mask & ~candidates).any())


def test_a_new_strategy_is_a_class_and_a_line(ids, monkeypatch):
    class LastLayerFirst(PriorityStrategy):
        name = "last_layer_first"
        measures = False

        def priority(self, view):
            return torch.arange(view.active.numel()).view(view.active.shape)

    monkeypatch.setitem(PRUNING_STRATEGIES, LastLayerFirst.name, LastLayerFirst)
    mask = select_for_pruning(PlasticModel(build("gpt2")), 4, "last_layer_first")
    assert mask.tolist() == [[False] * 4, [True] * 4]


def test_bad_input(ids):
    model = PlasticModel(build("gpt2"))
    with pytest.raises(InputError, match="did you mean 'fisher'"):
        select_for_pruning(model, 1, "fischer", input_ids=ids)
    with pytest.raises(InputError, match="hand it input_ids"):
        select_for_pruning(model, 1, "fisher")
    signals = measure(model, ids, obs=False)
    with pytest.raises(InputError, match="obs=True"):
        select_for_pruning(model, 1, "obs", signals=signals)
