"""Whole attention patterns, for pictures: what `measure` never builds, on a sequence or two."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from plasticity_env.common.errors import InputError
from plasticity_env.model.contexts import evaluating
from plasticity_env.model.inputs import check_ids
from plasticity_env.model.score_terms import cap, explicit_mask
from plasticity_env.model.wrapping import plastic_view

LARGEST = 2**28  # numbers in all maps together (1 GiB)


@torch.no_grad()
def attention_maps(model: nn.Module, input_ids: Tensor) -> Tensor:
    """The attention distribution of every query of every head.

    Args:
        model: A `PlasticModel`, whose pruned heads attend too, or a plain Hugging Face causal LM.
        input_ids: (T,), or (B, T) with few sequences.

    Returns:
        (B, L, H, T, T) float32 on the CPU; entry [b, l, h, t, j] is what query t gives to key j, and each row sums to 1, less
        what an attention sink takes.

    Raises:
        InputError: No token ids, ids that the model has no row or position for, an unknown architecture, or maps too large to
            be looked at.
    """
    ids = input_ids[None] if input_ids.ndim == 1 else input_ids
    if ids.ndim != 2 or not ids.numel():
        raise InputError(f"input_ids must be (tokens,) or (sequences, tokens), got {tuple(input_ids.shape)}")
    with plastic_view(model) as view:
        check_ids(view, ids)
        size = len(ids) * view.shape[0] * view.heads * ids.shape[1] ** 2
        if size > LARGEST:
            raise InputError(f"attention maps of {tuple(ids.shape)} tokens hold {size:,} numbers: take a shorter text")
        listener = _Maps()
        with evaluating(view), view.using(view.state.gates, listener):
            view.model(input_ids=ids.to(view.device), use_cache=False)
    return torch.stack(listener.maps, 1)


class _Maps:
    """Attention with its weights written out."""

    def __init__(self) -> None:
        self.maps: list[Tensor] = []  # (B, H, T, T) a layer

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scale: float,
        softcap: float | None = None,
    ) -> Tensor:
        groups, tokens = query.shape[1] // key.shape[1], query.shape[2]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        scores = cap((query @ key.transpose(-1, -2)).float() * scale, softcap)  # (B, H, T, T or T + 1)
        mask = explicit_mask(mask, query, key)
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
        weights = scores.softmax(-1)
        self.maps.append(weights[..., :tokens].cpu())  # without the sink, the last key
        return (weights.to(value.dtype) @ value).transpose(1, 2)  # (B, T, H, D)

    def note_mlp(self, layer: int, neurons: Tensor) -> Tensor:
        return neurons
