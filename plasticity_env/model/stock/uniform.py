"""The same number of heads in every layer: what that asks of a mask, and the best mask that meets it.

A stock configuration has one number of heads and one of KV groups for all layers, and query head h reads group
h // (heads // groups). So every layer keeps ``g`` groups with ``m`` heads each; which ones is free.
"""

from __future__ import annotations

import torch
from torch import Tensor

from plasticity_env.common.errors import InputError


def group_shapes(heads: int, kv_heads: int) -> dict[int, list[tuple[int, int]]]:
    """Head counts that whole groups can make: count to its (groups kept, heads kept in each), in rising order."""
    shapes: dict[int, list[tuple[int, int]]] = {}
    for groups in range(1, kv_heads + 1):
        for members in range(1, heads // kv_heads + 1):
            shapes.setdefault(groups * members, []).append((groups, members))
    return dict(sorted(shapes.items()))


def group_shape(active: Tensor, kv_heads: int) -> tuple[int, int]:
    """Groups and heads in each that every layer keeps.

    Args:
        active: (L, H) boolean.
        kv_heads: KV groups of the dense model; head ``h`` reads group ``h // (H // kv_heads)``.

    Returns:
        (groups kept, heads kept in each of them).

    Raises:
        InputError: Layers, or the groups of a layer, differ; or nothing is left.
    """
    counts = active.sum(1).tolist()
    if len(set(counts)) != 1:
        raise InputError(
            f"layers keep {', '.join(map(str, counts))} heads, and a stock configuration has one number for all layers: prune "
            "the same number in each (--uniform_heads), or use --format compact or masked"
        )
    if counts[0] == 0:
        raise InputError("no head is left, and no stock configuration can express that: use --format masked or compact")
    grouped = active.view(len(active), kv_heads, -1).sum(2)  # (L, G)
    shapes = [(int((row > 0).sum()), int(row.max())) for row in grouped]
    for layer, (shape, row) in enumerate(zip(shapes, grouped.tolist(), strict=True)):
        if shape != shapes[0] or shape[0] * shape[1] != counts[0]:
            raise InputError(
                f"the KV groups of layer {layer} keep {', '.join(map(str, row))} heads, and a stock configuration wants as "
                "many in each kept group and as many groups in each layer: prune with --uniform_heads, or use --format "
                "compact or masked"
            )
    return shapes[0]


def block_count(active: Tensor) -> int:
    """MLP blocks that every layer keeps, from an (L, M) mask.

    Raises:
        InputError: Layers differ, or nothing is left.
    """
    counts = active.sum(1).tolist()
    if len(set(counts)) != 1 or counts[0] == 0:
        raise InputError(
            f"layers keep {', '.join(map(str, counts))} MLP blocks, and a stock configuration wants one number above 0 "
            "for all: use --format compact or masked"
        )
    return int(counts[0])


def uniform_mask(importance: Tensor, kv_heads: int, shape: tuple[int, int]) -> Tensor:
    """The most important heads of each layer that have a given shape.

    Args:
        importance: (L, H), larger = kept longer.
        kv_heads: KV groups of the dense model.
        shape: (groups to keep, heads to keep in each).

    Returns:
        (L, H) boolean, True = kept.
    """
    groups, members = shape
    grouped = importance.reshape(len(importance), kv_heads, -1)  # (L, G, heads of a group)
    inside = torch.zeros_like(grouped, dtype=torch.bool)
    inside.scatter_(2, grouped.topk(members, dim=2).indices, True)
    worth = torch.where(inside, grouped, 0.0).sum(2)  # (L, G)
    chosen = torch.zeros_like(worth, dtype=torch.bool).scatter_(1, worth.topk(groups, dim=1).indices, True)
    return (inside & chosen[:, :, None]).reshape(importance.shape)
