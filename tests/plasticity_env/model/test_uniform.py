"""As many heads in each layer: which masks are, and which mask is the best."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity_env import InputError
from plasticity_env.model.stock.uniform import block_count, group_shape, group_shapes, uniform_mask


def test_counts_that_whole_groups_make():
    assert list(group_shapes(9, 3)) == [1, 2, 3, 4, 6, 9]
    assert group_shapes(9, 3)[3] == [(1, 3), (3, 1)]
    assert list(group_shapes(5, 5)) == [1, 2, 3, 4, 5]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(4, 2), (6, 3), (6, 2), (4, 4)]))
def test_the_chosen_mask_is_the_best_of_all_masks_of_its_shape(seed, sizes):
    heads, kv_heads = sizes
    importance = torch.rand(1, heads, generator=torch.Generator().manual_seed(seed))
    for count, shapes in group_shapes(heads, kv_heads).items():
        best = dict.fromkeys(shapes, 0.0)
        for kept in itertools.combinations(range(heads), count):
            candidate = torch.zeros(1, heads, dtype=torch.bool)
            candidate[0, list(kept)] = True
            try:
                shape = group_shape(candidate, kv_heads)
            except InputError:
                continue
            best[shape] = max(best[shape], float(importance[candidate].sum()))
        for shape in shapes:
            mask = uniform_mask(importance, kv_heads, shape)
            assert group_shape(mask, kv_heads) == shape
            assert float(importance[mask].sum()) == pytest.approx(best[shape], abs=1e-6)


def test_every_layer_gets_the_shape():
    importance = torch.randn(5, 12, generator=torch.Generator().manual_seed(0))  # scores may be negative
    mask = uniform_mask(importance, 4, (2, 2))
    assert group_shape(mask, 4) == (2, 2)


@pytest.mark.parametrize(
    ("rows", "kv_heads", "message"),
    [
        ([[1, 1, 0, 0], [1, 0, 0, 0]], 4, "layers keep 2, 1 heads"),
        ([[0, 0, 0, 0], [0, 0, 0, 0]], 4, "no head is left"),
        ([[1, 1, 0, 0], [1, 0, 1, 0]], 2, "KV groups of layer 1 keep 1, 1 heads"),
        ([[1, 1, 1, 0], [1, 1, 1, 0]], 2, "KV groups of layer 0 keep 2, 1 heads"),
    ],
)
def test_ragged_masks_are_refused_with_the_counts_and_the_way_out(rows, kv_heads, message):
    with pytest.raises(InputError, match=message) as error:
        group_shape(torch.tensor(rows, dtype=torch.bool), kv_heads)
    assert "--format" in str(error.value)


def test_ragged_mlp_blocks_are_refused():
    assert block_count(torch.tensor([[1, 0, 1], [0, 1, 1]], dtype=torch.bool)) == 2
    for rows in ([[1, 0], [1, 1]], [[0, 0], [0, 0]]):
        with pytest.raises(InputError, match="MLP blocks"):
            block_count(torch.tensor(rows, dtype=torch.bool))
