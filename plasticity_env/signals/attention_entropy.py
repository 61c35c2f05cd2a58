"""Exact attention entropy without the T x T matrix.

With p_t the softmax of query t over its visible keys and s_tj = scale * q_t . k_j,

    H_t = -sum_j p_tj log p_tj = lse_t - scale * q_t . (sum_j p_tj k_j),

so one more flash-attention call with K in the place of V, and the log-sum-exp that the kernel returns, are enough:
O(T) memory. Kernels that hand out no log-sum-exp are replaced by a plain computation in blocks of queries.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from plasticity_env.model.score_terms import cap

Kernel = Literal["flash_cpu", "flash_cuda", "efficient_cuda", "plain"]
# Up to this head width one kernel call of twice the width, for V and K side by side, beats two calls (measured on CPU:
# 0.71 x at 16, 0.70 x at 24, 0.96 x at 32, 1.05 x at 64); the result is the same to the last bit.
_FUSED_WIDTH = 24
_QUERY_BLOCK = 128  # rows of the score matrix that the plain path holds at once


def choose_kernel(query: Tensor, mask: Tensor | None, softcap: float | None = None) -> Kernel:
    """Name the kernel that will compute attention with its log-sum-exp for this input.

    Args:
        query: (B, H, T, D).
        mask: None for causal attention, else a boolean or additive (B or 1, H or 1, T, T) mask.
        softcap: Bound of the scores, which no kernel knows, or None.
    """
    if softcap is not None:
        return "plain"
    if query.device.type == "cpu" and query.dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        return "flash_cpu"
    if query.device.type == "cuda" and mask is None:
        half, width = query.dtype in (torch.float16, torch.bfloat16), query.shape[-1]
        ampere = torch.cuda.get_device_capability(query.device) >= (8, 0)
        if half and ampere and width % 8 == 0 and width <= 256:
            return "flash_cuda"
        if (half and width % 8 == 0) or (query.dtype == torch.float32 and width % 4 == 0):
            return "efficient_cuda"
    return "plain"


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    kernel: Kernel,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention and its log-sum-exp.

    Args:
        query, key, value: (B, H, T, D), keys and values already repeated to H heads; values may be narrower.
        mask: None for causal, else boolean (True = visible) or additive, broadcastable to (B, H, T, T).
        scale: Factor on the scores.
        kernel: Name of the kernel, from `choose_kernel`.
        softcap: Bound of the scores, with the plain kernel only.

    Returns:
        Output (B, H, T, D), differentiable, and log-sum-exp (B, H, T) in nats.
    """
    causal, aten, width = mask is None, torch.ops.aten, value.shape[-1]
    if kernel != "plain" and width < query.shape[-1]:
        value = F.pad(value, (0, query.shape[-1] - width))
    if kernel == "flash_cpu":
        out, lse = aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, is_causal=causal, attn_mask=_additive(mask, query.dtype), scale=scale
        )
    elif kernel == "flash_cuda":
        out, lse = aten._scaled_dot_product_flash_attention(query, key, value, is_causal=True, scale=scale)[:2]
    elif kernel == "efficient_cuda":
        out, lse = aten._scaled_dot_product_efficient_attention(
            query, key, value, None, compute_log_sumexp=True, is_causal=True, scale=scale
        )[:2]
        lse = lse[..., : query.shape[2]]  # this kernel pads T to a multiple of 32
    else:
        out, lse, _ = _plain(query, key, value, mask, scale, softcap)
    return out[..., :width], lse


@torch.no_grad()
def attention_entropy(
    query: Tensor, key: Tensor, lse: Tensor, mask: Tensor | None, scale: float, kernel: Kernel
) -> Tensor:
    """Entropy in nats of every query's attention distribution, (B, H, T); see the module's formula.

    Args:
        query, key: (B, H, T, D).
        lse: (B, H, T), from `attend` with the same arguments.
        mask, scale, kernel: The values that `attend` was given.
    """
    query, key = query.detach(), key.detach()
    mean_key, _ = attend(query, key, key, mask, scale, kernel)  # (B, H, T, D)
    return lse.detach() - scale * torch.einsum("bhtd,bhtd->bht", query.to(lse.dtype), mean_key.to(lse.dtype))


def attend_with_entropy(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    kernel: Kernel,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention, differentiable, and the entropy of every query's distribution.

    Args:
        query, key, value, mask, scale, kernel, softcap: The same as for `attend`.

    Returns:
        Output (B, H, T, D), and entropy (B, H, T) in nats, without gradient.
    """
    if softcap is not None:  # scores are no products of queries and keys any more
        out, lse, score = _plain(query, key, value, mask, scale, softcap)
        return out, (lse - score).detach()
    if kernel == "flash_cpu" and query.shape[-1] == value.shape[-1] <= _FUSED_WIDTH:
        return _FusedAttention.apply(query, key, value, _additive(mask, query.dtype), scale)  # type: ignore[no-any-return]
    out, lse = attend(query, key, value, mask, scale, kernel)
    return out, attention_entropy(query, key, lse, mask, scale, kernel)


class _FusedAttention(torch.autograd.Function):
    """softmax(q k^T) [v | k] in one flash call: queries and keys are padded with zeros to the width of both values."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float
    ) -> tuple[Tensor, Tensor]:
        zeros = torch.zeros_like(query)
        wide = [torch.cat(pair, -1) for pair in ((query, zeros), (key, zeros), (value, key))]  # (B, H, T, 2D)
        both, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            *wide, is_causal=mask is None, attn_mask=mask, scale=scale
        )
        width = query.shape[-1]
        out, mean_key = both[..., :width].contiguous(), both[..., width:]
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.mask, ctx.scale = mask, scale
        score = torch.einsum("bhtd,bhtd->bht", query.to(lse.dtype), mean_key.to(lse.dtype))
        entropy = lse - scale * score
        ctx.mark_non_differentiable(entropy)
        return out, entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, lse = ctx.saved_tensors
        found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            gradients[0], query, key, value, out, lse, 0.0, ctx.mask is None, attn_mask=ctx.mask, scale=ctx.scale
        )
        return (*found, None, None)


def visible_lengths(mask: Tensor | None, tokens: int, device: torch.device) -> Tensor:
    """How many keys each query may see.

    Args:
        mask: None for causal, else boolean or additive (B, 1 or H, T, T).
        tokens: Number T of tokens.
        device: Device to put the result on.

    Returns:
        (1, 1, T) for a causal mask, else (B, 1 or H, T), integers.
    """
    if mask is None:
        return torch.arange(1, tokens + 1, device=device)[None, None]
    visible = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    return visible.sum(-1)


def _additive(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -math.inf)


def _plain(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, softcap: float | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, log-sum-exp and mean score of each query.

    In float32 at least: half precision rounds scores by so much that the probabilities no longer sum to 1.
    """
    given, tokens, outs, sums, means = value.dtype, query.shape[2], [], [], []
    query, key, value = (each.to(torch.promote_types(each.dtype, torch.float32)) for each in (query, key, value))
    additive = _additive(mask, query.dtype)
    for start in range(0, tokens, _QUERY_BLOCK):
        stop = min(start + _QUERY_BLOCK, tokens)
        raw = cap((query[:, :, start:stop] @ key.transpose(-1, -2)) * scale, softcap)  # (B, H, block, T)
        if additive is None:
            rows = torch.arange(start, stop, device=query.device)[:, None]
            scores = raw.masked_fill(torch.arange(tokens, device=query.device)[None] > rows, -math.inf)
        else:
            scores = raw + additive[..., start:stop, :]
        # left padding sees no key: its output is 0, and so are gradients
        blind = (scores == -math.inf).all(-1, keepdim=True)
        scores = scores.masked_fill(blind, 0.0)
        lse = scores.logsumexp(-1)
        weights = (scores - lse[..., None]).exp().masked_fill(blind, 0.0)
        outs.append((weights @ value).to(given))
        sums.append(lse)
        means.append((weights * raw).sum(-1))
    return torch.cat(outs, 2), torch.cat(sums, 2), torch.cat(means, 2)
