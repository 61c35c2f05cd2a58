"""Text in, loss and perplexity out: for any causal LM and any way to hand over text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plasticity_env.common.errors import InputError
from plasticity_env.model.contexts import evaluating
from plasticity_env.model.inputs import check_ids, text_mask_inputs
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.signals.measure import DIVERGED

if TYPE_CHECKING:
    from plasticity_env.data.batches import TokenBatch

Data = Tensor | Iterable[Any]


def evaluate_model(
    model: nn.Module, data: Data, *, batch_size: int = 8, max_batches: int | None = None
) -> dict[str, float]:
    """Loss and perplexity of a model on text; each predicted token counts the same.

    Args:
        model: Any causal LM with Hugging Face's call; in evaluation mode for as long as this takes.
        data: Text.
        batch_size: Sequences in one pass, where ``data`` are token ids.
        max_batches: Read no more than these.

    Returns:
        ``loss`` (nats per token), ``perplexity`` (its exponential), ``tokens`` (predicted ones), ``sequences``; for a
        `PlasticModel` also ``active_heads`` and ``sparsity`` (share of heads pruned).

    Raises:
        InputError: No text, text without a token to predict, or a loss that is not finite.
    """
    total, tokens, sequences = 0.0, 0, 0
    with evaluating(model), torch.no_grad():
        for batch in read_batches(data, batch_size, max_batches):
            summed, count = summed_loss(model, batch.to(_device(model)))
            total, tokens, sequences = total + float(summed), tokens + count, sequences + len(batch.input_ids)
    if not tokens:
        raise InputError("the text holds no token to predict: all of it is padding")
    loss = total / tokens
    if not math.isfinite(loss):
        raise InputError(DIVERGED)
    found: dict[str, float] = {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "tokens": tokens,
        "sequences": sequences,
    }
    if isinstance(model, PlasticModel):
        heads = model.active[:, : model.heads]
        found |= {"active_heads": int(heads.sum()), "sparsity": 1 - float(heads.float().mean())}
    return found


def read_batches(data: Data, batch_size: int = 8, max_batches: int | None = None) -> Iterator[TokenBatch]:
    """Text in any form, batch by batch.

    Args:
        data: (n, T) token ids, or an iterable of what `learning.batches.token_batch` takes.
        batch_size: Sequences in a batch, where ``data`` are token ids.
        max_batches: Stop after these.

    Raises:
        InputError: Nothing to read, or a number below 1.
    """
    from plasticity_env.data.batches import token_batch  # that package's loop evaluates, so it comes second

    for name, number in (("batch_size", batch_size), ("max_batches", max_batches)):
        if number is not None and number < 1:
            raise InputError(f"{name} must be at least 1, got {number!r}")
    if isinstance(data, Tensor):
        data = token_batch(data).input_ids.split(batch_size)
    elif isinstance(data, nn.Module | str) or not hasattr(data, "__iter__"):
        raise InputError(f"text must be (n, T) token ids or a data loader, got {type(data).__name__}")
    batches = [data] if hasattr(data, "keys") else data  # a single mapping is one batch
    empty = True
    for batch in islice(batches, max_batches):
        empty = False
        yield token_batch(batch)
    if empty:
        raise InputError("there is no batch to read: the text is empty, or shorter than one block")


def summed_loss(model: nn.Module, batch: TokenBatch) -> tuple[Tensor, int]:
    """Summed negative log-likelihood in nats, differentiable, and how many tokens it is of.

    Raises:
        InputError: Token ids that the model has no row or position for.
    """
    check_ids(model, batch.input_ids)
    extra = text_mask_inputs(model, batch.attention_mask)
    logits = model(input_ids=batch.input_ids, use_cache=False, **extra).logits  # (B, T, V)
    targets = batch.targets
    loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum")
    return loss, int((targets != -100).sum())


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
