"""Where a grown head's first weights come from."""

from __future__ import annotations

import pytest
import torch

from plasticity_env import InputError, PlasticModel, measure
from plasticity_env.growth import grow_attention_heads_gradually
from plasticity_env.growth.initial_weights import (
    OUTPUT_SHARE,
    SYMMETRY_NOISE,
    CopyWeights,
    RandomWeights,
    Source,
    TransferWeights,
)
from tests.conftest import build
from tests.plasticity_env.growth.test_grow import heads


def grown(model, where, kind):
    """The values that ``kind`` gives a head and, where its group is dead, the group."""
    mask = heads(*where, shape=model.shape)
    model.grow(mask, warmup_steps=10, generator=torch.Generator().manual_seed(0), weights=kind)
    return mask


def far(piece, values):
    """Distance between a piece and values, in standard deviations of the values."""
    return float((piece.data - values).square().mean().sqrt() / values.std())


def fisher(best, shape=(2, 4)):
    usefulness = torch.full(shape, 0.1)
    usefulness[best] = 1.0
    return usefulness


def test_random_weights_have_the_layers_own_spread_and_small_output_rows(architecture):
    model = PlasticModel(build(architecture))
    model.prune(heads((0, 0), (0, 1)))
    old = [piece.data.clone() for piece in model.pieces(0, 0, "unit")]
    kind = RandomWeights()
    grown(model, [(0, 0)], kind)
    assert kind.sources == {(0, 0): Source("random")}
    output = model.blocks[0].output_slice(0).parameter
    for piece, before in zip(model.pieces(0, 0, "unit"), old, strict=True):
        if piece.data.ndim == 2:
            share = OUTPUT_SHARE if piece.parameter is output else 1
            assert float(piece.data.std() / piece.parameter.data.std()) == pytest.approx(share, rel=0.25)
            assert float((piece.data - before).norm() / before.norm()) > 0.9
        else:
            assert bool((piece.data == 0).all())


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "llama", "qwen2"])
def test_a_copy_is_the_most_useful_head_but_for_a_little_noise(architecture):
    model = PlasticModel(build(architecture))
    model.prune(heads((0, 0), (0, 1)))  # a whole KV group under GQA
    kind = CopyWeights(fisher((0, 3)))
    grown(model, [(0, 0), (0, 1)], kind)
    assert kind.sources == {(0, 0): Source("active", 0, 3), (0, 1): Source("active", 0, 3)}
    size = model.blocks[0].group_size
    pairs = list(zip(model.pieces(0, 0, "unit"), model.pieces(0, 3, "unit"), strict=True))
    pairs += zip(model.pieces(0, 0, "group"), model.pieces(0, 3 // size, "group"), strict=True)
    for new, source in pairs:
        if new.data.ndim == 2:
            assert far(new, source.data) == pytest.approx(SYMMETRY_NOISE, rel=0.2)
        else:
            assert torch.equal(new.data, source.data)
    first, second = model.pieces(0, 0, "unit")[0].data, model.pieces(0, 1, "unit")[0].data
    assert not torch.equal(first, second)  # the symmetry of two copies is broken


def test_a_head_of_a_living_group_copies_a_head_of_that_group():
    model = PlasticModel(build("llama"))
    model.prune(heads((0, 0)))
    keys = [piece.data.clone() for piece in model.pieces(0, 0, "group")]
    kind = CopyWeights(fisher((0, 3)))
    grown(model, [(0, 0)], kind)
    assert kind.sources == {(0, 0): Source("active", 0, 1)}
    for piece, before in zip(model.pieces(0, 0, "group"), keys, strict=True):
        assert torch.equal(piece.data, before)


def test_an_empty_layer_has_nothing_to_copy():
    model = PlasticModel(build("gpt2"))
    model.prune(heads((0, 0), (0, 1), (0, 2), (0, 3)))
    kind = CopyWeights(fisher((1, 0)))
    grown(model, [(0, 2)], kind)
    assert kind.sources == {(0, 2): Source("random")}


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "llama", "qwen2"])
def test_transfer_takes_the_saved_weights_of_the_mirrored_layer(architecture):
    model = PlasticModel(build(architecture))
    model.prune(heads((0, 0), (0, 1), (1, 2), (1, 3)))
    size = model.blocks[0].group_size
    saved = [p.data.clone() for p in model.pieces(1, 2, "unit") + model.pieces(1, 2 // size, "group")]
    for piece in model.pieces(1, 2, "unit"):
        piece.data.zero_()  # what counts is what was saved
    kind = TransferWeights(fisher((1, 0)))
    grown(model, [(0, 0)], kind)
    assert kind.sources == {(0, 0): Source("pruned", 1, 2)}  # the next pruned one from its own index on
    pieces = model.pieces(0, 0, "unit") + model.pieces(0, 0, "group")
    for piece, values in zip(pieces, saved, strict=True):
        if piece.data.ndim == 2:
            assert far(piece, values) == pytest.approx(SYMMETRY_NOISE, rel=0.2)


def test_transfer_prefers_the_same_index_and_falls_back_to_the_most_useful_active_head():
    model = PlasticModel(build("gpt2"))
    model.prune(heads((0, 2), (1, 2), (1, 0)))
    kind = TransferWeights(fisher((1, 1)))
    assert kind.source(model, 0, 2) == Source("pruned", 1, 2)
    assert kind.source(model, 0, 3) == Source("pruned", 1, 0)  # cyclically
    model.revive(heads((1, 0), (1, 2)))
    assert kind.source(model, 0, 2) == Source("active", 1, 1)
    assert str(kind.source(model, 0, 2)) == "active unit 1 of layer 1"


def test_mlp_blocks_start_from_mlp_blocks():
    model = PlasticModel(build("llama"), mlp_blocks=4)
    model.prune(heads((0, 5), (1, 6), shape=model.shape))
    kind = TransferWeights(fisher((1, 0), model.shape))
    assert kind.source(model, 0, 5) == Source("pruned", 1, 6)
    copy = CopyWeights(fisher((0, 7), model.shape))
    grown(model, [(0, 5)], copy)
    assert copy.sources == {(0, 5): Source("active", 0, 7)}
    assert far(model.pieces(0, 5, "unit")[0], model.pieces(0, 7, "unit")[0].data) < 2 * SYMMETRY_NOISE


def test_the_result_says_where_every_head_came_from(ids):
    model = PlasticModel(build("gpt2"))
    model.prune(heads((0, 1), (1, 1), (1, 3)))
    best = measure(model, ids).fisher
    result = grow_attention_heads_gradually(model, 1.0, input_ids=ids, initial_weights="transfer")
    assert result.sources == {
        (0, 1): Source("pruned", 1, 1),
        (1, 1): Source("pruned", 0, 1),
        (1, 3): Source("pruned", 0, 1),
    }
    model.prune(heads((0, 1)))
    best = measure(model, ids).fisher.masked_fill(~model.active, -1)
    result = grow_attention_heads_gradually(model, 1.0, input_ids=ids, initial_weights="transfer")
    assert result.sources == {(0, 1): Source("active", 1, int(best[1].argmax()))}


def test_copying_without_scores_is_an_error():
    with pytest.raises(InputError, match="calibration text"):
        CopyWeights()
