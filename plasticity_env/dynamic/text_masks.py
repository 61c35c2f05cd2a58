"""A mask of its own for every text of a batch, from some token on: for masks that no bank holds, with gradients if wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plasticity_env.common.errors import InputError
from plasticity_env.model.contexts import evaluating
from plasticity_env.model.layouts import Site
from plasticity_env.model.plastic_model import PlasticModel


@contextmanager
def text_masks(model: PlasticModel, gates: Tensor, dense_tokens: int = 0) -> Iterator[None]:
    """Multiply the units of each text of the forwards inside by gates of its own.

    Args:
        model: The dense model.
        gates: (B, L, U) boolean or in [0, 1]; gradients pass to them.
        dense_tokens: Tokens at the start of each text whose units all stay.

    Raises:
        InputError: The gates are not of this model.
    """
    if gates.ndim != 3 or tuple(gates.shape[1:]) != model.shape:
        raise InputError(f"gates must be (B, {model.shape[0]}, {model.shape[1]}), got {tuple(gates.shape)}")
    gates = gates.to(model.device, model.dtype)
    hooks = [
        site.output.register_forward_pre_hook(_at(site, gates, dense_tokens)) for site in model.sites if site.gated
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _at(site: Site, gates: Tensor, dense_tokens: int) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Tensor, ...]]:
    rows = gates[:, site.layer, site.columns].repeat_interleave(site.unit_width, -1)[:, None]  # (B, 1, I)

    def change(module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
        inputs: Tensor = args[0]  # (B, T, I), or (B * T, I) in OPT's MLP
        cut = inputs.reshape(len(rows), -1, inputs.shape[-1])
        out = torch.cat([cut[:, :dense_tokens], cut[:, dense_tokens:] * rows], 1) if dense_tokens else cut * rows
        return (out.view(inputs.shape),)

    return change


def losses_after(model: PlasticModel, input_ids: Tensor, first: int) -> Tensor:
    """(B,) mean losses of texts over the tokens from number ``first`` (at least 1) on, differentiable; one forward.

    Args:
        model: Run as it is.
        input_ids: (B, T) token ids.
        first: Number of the first token that counts.
    """
    logits = model.model(input_ids=input_ids, use_cache=False).logits[:, first - 1 : -1]
    targets = input_ids[:, first:]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return losses.view(targets.shape).mean(1)


@torch.no_grad()
def masked_losses(
    model: PlasticModel,
    input_ids: Tensor,
    masks: Tensor,
    *,
    dense_tokens: int = 0,
    first: int = 1,
    batch_size: int = 16,
) -> Tensor:
    """(n,) losses of texts, each under its own mask.

    Args:
        model: The dense model.
        input_ids: (n, T) token ids.
        masks: (n, L, U) boolean, True for units that run.
        dense_tokens: Tokens at the start that run dense.
        first: Number of the first token that counts, at least 1.
        batch_size: Texts in one pass.
    """
    found = []
    with evaluating(model.model):
        for ids, mask in zip(input_ids.split(batch_size), masks.split(batch_size), strict=True):
            with text_masks(model, mask, dense_tokens):
                found.append(losses_after(model, ids.to(model.device), first).cpu())
    return torch.cat(found)
