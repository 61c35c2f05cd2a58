"""What a forward is handed: ids that the model has rows and positions for, and padding that counts nowhere."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

from plasticity_env.common.errors import InputError
from plasticity_env.model.plastic_model import PlasticModel


def check_ids(model: nn.Module, input_ids: Tensor) -> None:
    """Refuse token ids that the model has no row or no position for.

    Args:
        model: A Hugging Face causal LM, or a `PlasticModel` around one; of another module nothing is known.
        input_ids: (..., T).

    Raises:
        InputError: There is such an id, there is none at all, they are no whole numbers, or T is more than the model's learned
            positions.
    """
    whole = isinstance(input_ids, Tensor) and not (input_ids.is_floating_point() or input_ids.is_complex())
    if not whole or not input_ids.numel():
        kind = (
            str(input_ids.dtype).removeprefix("torch.") if isinstance(input_ids, Tensor) else type(input_ids).__name__
        )
        said = f"{kind} of shape {tuple(input_ids.shape)}" if isinstance(input_ids, Tensor) else kind
        raise InputError(f"input_ids must be a tensor of token ids, one at least, got {said}")
    stock: Any = model.model if isinstance(model, PlasticModel) else model
    if not hasattr(stock, "get_input_embeddings"):
        return
    rows, config = stock.get_input_embeddings().num_embeddings, stock.config
    low, high = (int(end) for end in input_ids.aminmax())
    if low < 0 or high >= rows:
        raise InputError(
            f"token ids must lie in [0, {rows}), the rows of the model's embedding, got {low if low < 0 else high}: use the "
            "model's own tokenizer, or resize_token_embeddings(len(tokenizer))"
        )
    longest = getattr(config, "max_position_embeddings", None)
    learned = getattr(config, "rope_parameters", None) is None
    if learned and longest is not None and input_ids.shape[-1] > longest:
        raise InputError(
            f"{input_ids.shape[-1]} tokens are more than the model's {longest} positions: cut the text into shorter blocks"
        )


def check_text(model: nn.Module, input_ids: Tensor) -> None:
    """Refuse what is no (B, T) batch of text with a token to predict, as `check_ids` does of ids.

    Raises:
        InputError: Another shape, sequences shorter than two tokens, or ids that the model cannot read.
    """
    shape = tuple(getattr(input_ids, "shape", ()))
    if isinstance(input_ids, Tensor) and (len(shape) != 2 or shape[0] < 1 or shape[1] < 2):
        raise InputError(f"input_ids must be (sequences >= 1, tokens >= 2), got {shape}")
    check_ids(model, input_ids)


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
