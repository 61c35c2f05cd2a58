"""Padding that counts nowhere: what a forward needs beside the token ids so that padded text is read as unpadded text."""

from __future__ import annotations

import inspect

from torch import Tensor, nn

from plasticity_env.model.plastic_model import PlasticModel


def text_mask_inputs(model: nn.Module, attention_mask: Tensor | None) -> dict[str, Tensor]:
    """Keyword arguments of a causal LM's forward for a batch with padding.

    Models with learned positions count them from the first column of the batch, so that left padding would shift them;
    where a row does not begin with text, its positions are counted from its first token instead.

    Args:
        model: A Hugging Face causal LM, or a `PlasticModel` around one.
        attention_mask: (B, T), 1 for text and 0 for padding; None when nothing is padded.

    Returns:
        ``attention_mask`` and, where it matters, ``position_ids`` (B, T); nothing for None.
    """
    if attention_mask is None:
        return {}
    stock = model.model if isinstance(model, PlasticModel) else model
    inputs = {"attention_mask": attention_mask}
    starts_late = bool((attention_mask[:, 1:] > attention_mask[:, :-1]).any())
    if starts_late and "position_ids" in inspect.signature(stock.forward).parameters:
        inputs["position_ids"] = (attention_mask.long().cumsum(1) - 1).clamp(min=0)
    return inputs
