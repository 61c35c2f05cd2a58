"""Strategies that prune: exactly as many heads as asked for, the right ones, from one registry."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity_env import InputError, PlasticModel, measure
from plasticity_env.strategies.pruning import (
    PRUNING_STRATEGIES,
    AttentionEntropyStrategy,
    HeadView,
    PriorityStrategy,
    entropy_correlation,
    entropy_direction,
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
    with pytest.raises(InputError, match="known are auto, high, low"):
        AttentionEntropyStrategy("hihg")


def by_hand(signals):
    """Spearman's rho of entropy and Fisher, and the combined importance, with ranks of pandas."""
    names = ("gradient", "fisher", "entropy_normalized")
    ranks = [(pd.Series(getattr(signals, name).flatten().numpy()).rank() - 1) / 7 for name in names]
    rho = np.corrcoef(ranks[1], ranks[2])[0, 1]
    return rho, (ranks[0] + ranks[1] + rho * ranks[2]).to_numpy()


@pytest.mark.parametrize("seed", range(4))
def test_combined_adds_ranks_and_entropy_as_far_as_it_agrees_with_fisher(ids, seed):
    model = PlasticModel(build("gpt2", seed))
    signals = measure(model, ids, obs=False)
    rho, importance = by_hand(signals)
    assert entropy_correlation(signals, model.active) == pytest.approx(rho)
    for count in range(9):
        mask = select_for_pruning(model, count, "combined", signals=signals).flatten()
        assert sorted(importance[mask]) == pytest.approx(sorted(importance)[:count])  # ties may go either way


@pytest.mark.parametrize("direction", ["high", "low"])
def test_entropy_measures_its_direction(ids, direction):
    model = PlasticModel(build("gpt2"))
    signals = measure(model, ids, obs=False)
    rising = torch.linspace(0.1, 0.8, 8).view(2, 4)
    fisher = rising.flip(0, 1) if direction == "high" else rising
    signals = signals.having(entropy_normalized=rising, fisher=fisher)
    assert entropy_direction(signals, model.active) == direction
    chosen = select_for_pruning(model, 3, "entropy", signals=signals)
    assert torch.equal(chosen, select_for_pruning(model, 3, f"entropy_{direction}", signals=signals))


def test_equal_values_share_a_rank_and_constant_entropy_has_no_say(ids):
    model = PlasticModel(build("gpt2"))
    signals = measure(model, ids, obs=False).having(entropy_normalized=torch.full((2, 4), 0.5))
    assert entropy_correlation(signals, model.active) == 0.0
    combined = select_for_pruning(model, 1, "combined", signals=signals.having(gradient=signals.fisher))
    assert torch.equal(combined, select_for_pruning(model, 1, "fisher", signals=signals))


@pytest.mark.parametrize("name", ["combined", "entropy_low", "entropy_high"])
def test_mlp_blocks_and_broken_signals(ids, name):
    model = PlasticModel(build("gpt2"), mlp_blocks=4)
    signals = measure(model, ids, obs=False)
    assert int(select_for_pruning(model, 6, name, signals=signals).sum()) == 6
    if name != "combined":  # what has no entropy goes last
        assert not bool(select_for_pruning(model, 8, name, signals=signals)[:, 4:].any())
    broken = signals.having(fisher=signals.fisher * torch.nan, entropy_normalized=signals.entropy * torch.nan)
    with pytest.raises(InputError, match="not finite"):
        select_for_pruning(model, 1, name, signals=broken)


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

    monkeypatch.setitem(PRUNING_STRATEGIES.maps[0], LastLayerFirst.name, LastLayerFirst)
    mask = select_for_pruning(PlasticModel(build("gpt2")), 4, "last_layer_first")
    assert mask.tolist() == [[False] * 4, [True] * 4]


def test_bad_input(ids):
    model = PlasticModel(build("gpt2"))
    with pytest.raises(InputError, match="did you mean 'fisher'"):
        select_for_pruning(model, 1, "fischer", input_ids=ids)
    with pytest.raises(InputError, match="pass it input_ids"):
        select_for_pruning(model, 1, "fisher")
    signals = measure(model, ids, obs=False)
    with pytest.raises(InputError, match="obs=True"):
        select_for_pruning(model, 1, "obs", signals=signals)
