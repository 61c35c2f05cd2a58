"""Attention scores that are more than scaled products: key biases (ALiBi), sinks (GPT-OSS) and soft caps (Gemma-2).

A bias of a key is one more feature of queries and keys, and a sink is one more key, whose value is zero. So both stay
products of queries and keys, which any kernel computes, and which the log-sum-exp and the entropy follow from. A soft cap
is none: it takes a plain computation of all scores.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_FEATURES = 8  # kernels want widths that this divides
_stock = ALL_ATTENTION_FUNCTIONS["sdpa"]


def with_key_bias(query: Tensor, key: Tensor, bias: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Queries and keys whose scaled products have a bias added.

    Args:
        query: (B, H, T, D).
        key: (B, H, T', D).
        bias: (B or 1, H or 1, 1, T') added to the scores of each key.
        scale: What products are multiplied by.

    Returns:
        Both with some features more.
    """
    features = F.pad((bias / scale).to(key).transpose(2, 3), (0, _FEATURES - 1))  # (B or 1, H or 1, T', 8)
    ones = F.pad(torch.ones_like(query[..., :1]), (0, _FEATURES - 1))
    return torch.cat([query, ones], -1), torch.cat([key, features.expand(*key.shape[:3], -1)], -1)


def with_sinks(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, sinks: Tensor, scale: float, causal: bool = True
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, keys, values and mask with one more key, the last, which takes its share of attention and gives nothing.

    Args:
        query: (B, H, T, D).
        key, value: (B, G, T', D).
        mask: None for causal attention, else boolean or additive (B, 1, T, T').
        sinks: (H,) score of the sink in each head.
        scale: What products are multiplied by.
        causal: Whether None means causal attention; all keys are seen otherwise.

    Returns:
        Queries (B, H, T, D + 8), keys (B, G, T' + 1, D + 8), values (B, G, T' + 1, D) and the mask (B or 1, 1, T, T' + 1).
    """
    seen = explicit_mask(mask, query, key, causal)
    of_head = (sinks.float() / scale).to(query)[None, :, None, None].expand(*query.shape[:3], 1)
    query = torch.cat([query, F.pad(of_head, (0, _FEATURES - 1))], -1)
    key = F.pad(key, (0, _FEATURES, 0, 1))
    one = torch.zeros_like(key)
    one[..., -1, -_FEATURES] = 1.0
    return (
        query,
        key + one,
        F.pad(value, (0, 0, 0, 1)),
        F.pad(seen, (0, 1), value=True if seen.dtype == torch.bool else 0.0),
    )


def explicit_mask(mask: Tensor | None, query: Tensor, key: Tensor, causal: bool = True) -> Tensor:
    """The mask itself, or the (1, 1, T, T') one that None stands for: causal, and everything for a single query."""
    if mask is not None:
        return mask
    tokens, keys = query.shape[2], key.shape[2]
    seen = torch.ones(tokens, keys, dtype=torch.bool, device=query.device)
    return (seen.tril() if causal and tokens > 1 else seen)[None, None]


def cap(scores: Tensor, softcap: float | None) -> Tensor:
    """Scores kept within (-softcap, softcap)."""
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **kwargs: Any,
) -> Tensor:
    """Stock scaled-dot-product attention, or a plain computation where scores are capped.

    Args:
        module: The attention module, or what stands for it in a stock attention call.
        query: (B, H, T, D').
        key: (B, G, T', D').
        value: (B, G, T', D), D' >= D.
        mask: None, or boolean / additive (B, 1 or H, T, T').
        scaling: Factor on the scores, 1 / sqrt(D') when None.
        dropout: Attention dropout while training.
        softcap: Bound of the scores, or None.
        **kwargs: What else the stock function takes.

    Returns:
        (B, T, H, D).
    """
    width, features = value.shape[-1], query.shape[-1]
    if softcap is None:
        value = F.pad(value, (0, features - width)) if features > width else value  # kernels want one width
        out, _ = _stock(module, query, key, value, mask, scaling=scaling, dropout=dropout, **kwargs)
        return out[..., :width]  # type: ignore[no-any-return]
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = cap((query @ key.transpose(-1, -2)) * (features**-0.5 if scaling is None else scaling), softcap)
    seen = explicit_mask(mask, query, key, bool(getattr(module, "is_causal", True)))
    scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min) if seen.dtype == torch.bool else scores + seen
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    training = module.training if isinstance(module, nn.Module) else dropout > 0
    return (F.dropout(weights, dropout, training) @ value).transpose(1, 2)  # (B, T, H, D)
