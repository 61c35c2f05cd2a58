"""Initial weights that leave the model's function as it is at the moment of growth: LEMON's shares and GradMax's zero rows."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from plasticity_env import InputError, PlasticModel, measure
from plasticity_env.growth import INITIAL_WEIGHTS, grow_attention_heads_gradually
from plasticity_env.growth.base import Source
from plasticity_env.growth.initial_weights import plant, starting
from plasticity_env.growth.lemon import LemonWeights, shares
from plasticity_env.signals.measure import mean_loss
from tests.conftest import build
from tests.plasticity_env.growth.test_grow import heads, pruned

KEEPS = sorted(name for name, kind in INITIAL_WEIGHTS.items() if not kind.gradual)
GONE = ((0, 0), (0, 1), (1, 2))  # a whole KV group of layer 0, half of one of layer 1, under grouped heads
REFUSED = {"lemon": ("stablelm_norms", "cohere", "gpt_oss", "olmo2", "falcon_alibi"), "gradmax": ("olmo2",)}


@pytest.mark.parametrize("initial", KEEPS)
def test_the_function_is_the_same_at_the_moment_of_growth(architecture, initial, ids):
    """In float64 and with gates that are open at once; or a sentence says why it cannot be."""
    if architecture in REFUSED[initial]:
        with pytest.raises(InputError, match=f"'{initial}' cannot hold in"):
            grow_attention_heads_gradually(pruned(architecture, GONE), 1.0, input_ids=ids, initial_weights=initial)
        return
    model = pruned(architecture, GONE).double()
    with torch.no_grad():
        before = model(ids).logits
        result = grow_attention_heads_gradually(model, 1.0, input_ids=ids, initial_weights=initial)
        after = model(ids).logits
    assert result.added_heads == list(GONE)
    assert bool((model.gates == 1).all())
    assert result.warmup_schedule(0) == 1.0
    assert torch.allclose(after, before, rtol=0, atol=1e-5 * float(before.abs().max()))


@pytest.mark.parametrize("initial", KEEPS)
def test_the_function_is_the_same_under_a_repair(initial, ids):
    model = pruned("llama", GONE).double()
    site = model.sites[0]
    better = site.output_weight() * 1.5
    model.apply_repair(0, better, torch.full_like(better[0], 0.3))
    with torch.no_grad():
        before = model(ids).logits
        grow_attention_heads_gradually(model, 1.0, input_ids=ids, initial_weights=initial)
        assert torch.allclose(model(ids).logits, before, rtol=0, atol=1e-6 * float(before.abs().max()))


def output_rows(model, layer, head):
    return model.blocks[layer].output_slice(head).data.clone()


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "llama", "qwen2"])
def test_shares_of_a_head_add_up_to_what_it_wrote_and_none_are_equal(architecture, ids):
    model = pruned(architecture, ((0, 0), (0, 1), (0, 2)))
    whole = output_rows(model, 0, 3)
    fisher = torch.zeros(model.shape)
    initial = starting(LemonWeights, model, fisher, ids)
    plant(model, heads((0, 0), (0, 1), (0, 2)), initial, 0.01, 100, None)
    assert set(initial.sources.values()) == {Source("active", 0, 3)}
    written = [output_rows(model, 0, head) for head in (3, 0, 1, 2)]
    assert torch.allclose(sum(written), whole, rtol=1e-5, atol=1e-7)
    for share, rows in zip((0.4, 0.3, 0.2, 0.1), written, strict=True):
        assert torch.allclose(rows, share * whole, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("copies", [1, 2, 5])
def test_shares_fall_and_add_up_to_one(copies):
    found = shares(copies)
    assert sum(found) == pytest.approx(1.0)
    assert all(a > b > 0 for a, b in pairwise(found))


def test_duplicates_take_the_most_useful_heads_of_their_group_in_turn():
    model = pruned("llama", ((0, 0), (1, 0), (1, 1)))
    fisher = torch.tensor([[0.0, 0.1, 0.9, 0.8], [0.0, 0.0, 0.2, 0.7]])
    initial = LemonWeights(fisher)
    assert initial.source(model, 0, 0) == Source("active", 0, 1)  # its living group's only other head
    assert initial.source(model, 1, 0) == Source("active", 1, 3)  # a dead group duplicates the best one
    assert initial.source(model, 1, 1) == Source("active", 1, 2)
    plain = pruned("gpt2", ((1, 0), (1, 1)))
    assert LemonWeights(fisher).source(plain, 1, 1) == Source("active", 1, 2)


def test_the_duplicates_part_when_the_model_trains(ids):
    model = pruned("gpt2", GONE)
    result = grow_attention_heads_gradually(model, 1.0, input_ids=ids, initial_weights="lemon")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    logits = model(ids).logits[:, :-1]
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
    optimizer.step()
    source = result.sources[1, 2]
    mine, theirs = (model.pieces(1, head, "unit")[0].data for head in (2, source.unit))
    assert not torch.allclose(mine, theirs, rtol=1e-4)


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "llama", "phi3"])
def test_gradmax_promises_the_gradient_that_its_rows_get(architecture, ids):
    """By autograd on the grown model: the squared norm of the loss's gradient in the zero rows, and no drawn values beat it."""

    def gradient(model, layer, head):
        model.zero_grad()
        logits = model(ids).logits[:, :-1]
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
        piece = model.blocks[layer].output_slice(head)
        return float(piece.narrow(piece.parameter.grad).double().square().sum())

    model = pruned(architecture, ((0, 0), (0, 1)))
    fisher = torch.rand(model.shape, generator=torch.Generator().manual_seed(1))
    kind = INITIAL_WEIGHTS["gradmax"]
    initial = starting(kind, model, fisher, ids, batch_size=1)
    plant(model, heads((0, 0)), initial, 0.01, 100, None)
    assert bool((output_rows(model, 0, 0) == 0).all())
    wanted = float(initial.promise(model)[0, 0])
    assert gradient(model, 0, 0) == pytest.approx(wanted, rel=1e-3)
    weight = model.blocks[0].value_slices(0)[0]
    norm = weight.data.norm()
    for seed in range(5):
        drawn = torch.randn(weight.data.shape, generator=torch.Generator().manual_seed(seed))
        weight.data.copy_(drawn * norm / drawn.norm())
        assert gradient(model, 0, 0) < wanted


def test_gradmax_takes_the_steepest_queries_where_values_are_shared(ids):
    model = pruned("llama", ((0, 0),))
    keys = [piece.data.clone() for piece in model.pieces(0, 0, "group")]
    result = grow_attention_heads_gradually(model, 1.0, input_ids=ids, initial_weights="gradmax")
    assert result.sources[0, 0] in (Source("active", 0, 2), Source("active", 0, 3))  # of the other group
    for piece, before in zip(model.pieces(0, 0, "group"), keys, strict=True):
        assert torch.equal(piece.data, before)


@pytest.mark.parametrize("initial", KEEPS)
def test_an_empty_layer_grows_random_heads_that_write_nothing(initial, ids):
    model = pruned("gpt2", tuple((0, head) for head in range(4)))
    before = mean_loss(model, ids)
    result = grow_attention_heads_gradually(model, 0.25, input_ids=ids, initial_weights=initial)
    assert set(result.sources.values()) == {Source("random")}
    assert mean_loss(model, ids) == pytest.approx(before, rel=1e-6)


@pytest.mark.parametrize("initial", KEEPS)
def test_mlp_blocks_write_nothing_at_first(initial, ids):
    model = PlasticModel(build("llama"), mlp_blocks=4)
    gone = heads((0, 1), (0, 5), shape=model.shape)
    model.prune(gone)
    before = mean_loss(model, ids)
    start = starting(INITIAL_WEIGHTS[initial], model, measure(model, ids, obs=False).fisher, ids)
    plant(model, gone, start, 0.01, 100, None)
    assert bool(model.active.all())
    assert bool((model.gates == 1).all())
    assert mean_loss(model, ids) == pytest.approx(before, rel=1e-5)


@pytest.mark.parametrize("initial", KEEPS)
def test_heads_that_write_nothing_yet_are_ranked_by_what_they_promise(initial, ids):
    model = PlasticModel(build("gpt2"))
    model.prune(heads((0, 0), (0, 1), (1, 2), (1, 3)))
    kind = INITIAL_WEIGHTS[initial]
    start = starting(kind, model, measure(model, ids, obs=False).fisher, ids)
    for layer, unit in (~model.active).nonzero().tolist():
        start(model, layer, unit, model.pieces(layer, unit, "unit") + model.pieces(layer, unit, "group"), None)
    best = start.promise(model).masked_fill(model.active, -1.0)
    (added,) = grow_attention_heads_gradually(model, 0.125, input_ids=ids, initial_weights=initial).added_heads
    assert added == divmod(int(best.argmax()), 4)
