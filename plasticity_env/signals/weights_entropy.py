"""Attention entropy from whole attention weights, as a stock model returns them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from plasticity_env.common.errors import InputError

TOLERANCE = 1e-2  # of a row's sum; an attention sink may take more, and such weights are no distribution


def entropy_of_weights(attentions: Tensor | Sequence[Tensor], normalized: bool = False) -> Tensor:
    """Entropy of every head, mean over the queries that see at least two keys.

    Args:
        attentions: A sequence of (B, H, T, T), one a layer; (B, L, H, T, T); or (B, H, T, T) of one layer. Where no query
            looks ahead, query t sees t + 1 keys, else all of them.
        normalized: Divide each query's entropy by the log of how many keys it sees.

    Returns:
        (L, H) float32 on the CPU; nats, or a share of the largest possible.

    Raises:
        InputError: No such tensors, rows that do not sum to 1, or fewer than two keys.
    """
    if isinstance(attentions, Tensor):
        layers = list(attentions.unbind(1)) if attentions.ndim == 5 else [attentions]
    else:
        layers = list(attentions)
    if not layers:
        raise InputError("there are no attention weights: call the model with output_attentions=True")
    return torch.stack([_of_layer(layer, index, normalized) for index, layer in enumerate(layers)])


def _of_layer(weights: Tensor | None, layer: int, normalized: bool) -> Tensor:
    """(H,) of one layer's (B, H, T, T)."""
    if not isinstance(weights, Tensor) or weights.ndim != 4 or weights.shape[-1] != weights.shape[-2]:
        got = tuple(weights.shape) if isinstance(weights, Tensor) else type(weights).__name__
        raise InputError(
            f"attention weights of layer {layer} must be (sequences, heads, tokens, tokens), got {got}: load the model with "
            "attn_implementation='eager' and call it with output_attentions=True"
        )
    weights = weights.detach().cpu().double()
    tokens = weights.shape[-1]
    sums = weights.sum(-1)
    if tokens < 2 or bool((weights < 0).any()) or not bool(((sums - 1).abs() < TOLERANCE).all()):
        raise InputError(
            f"attention weights of layer {layer} are not distributions over at least two keys: each row must be positive and "
            "sum to 1 (dropout off: model.eval())"
        )
    ahead = bool(weights.triu(1).any())
    visible = torch.full((tokens,), tokens) if ahead else torch.arange(1, tokens + 1)  # (T,)
    entropy = torch.special.entr(weights).sum(-1)[..., visible > 1]  # (B, H, t)
    if normalized:
        entropy = entropy / visible[visible > 1].log()
    return entropy.mean((0, 2)).float()
