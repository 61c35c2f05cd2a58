"""A model taken apart at its transformer blocks: what enters each layer, and running one layer by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plasticity_env.model.layouts import layout_of, transformer_layers


class _Stop(Exception):  # noqa: N818  control flow, not an error
    pass


@dataclass(frozen=True)
class LayerCalls:
    """How the model calls its transformer blocks for one batch.

    Attributes:
        hidden: (B, T, E) what enters the first block.
        calls: L pairs of further positional and keyword arguments (masks, rotary embeddings).
    """

    hidden: Tensor
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]]


@torch.no_grad()
def layer_calls(model: nn.Module, input_ids: Tensor) -> LayerCalls:
    """Note how a Hugging Face causal LM calls its blocks, without running any of them.

    Args:
        model: The causal LM.
        input_ids: (B, T).
    """
    layers, entered, calls = transformer_layers(model), [], []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        entered.append(args[0])
        calls.append((args[1:], kwargs))
        if module is layers[-1]:
            raise _Stop

    hooks = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in layers]
    try:
        with replaced(layers, lambda layer: lambda hidden, *args, **kwargs: as_output(model, hidden)):
            model(input_ids=input_ids, use_cache=False)
    except _Stop:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return LayerCalls(entered[0], calls)


def as_output(model: nn.Module, hidden: Tensor) -> Any:
    """What a transformer block of this model returns that leaves (B, T, E) behind."""
    return (hidden, None) if layout_of(model).returns_tuple else hidden


def hidden_of(output: Any) -> Tensor:
    """(B, T, E) from what a transformer block returns."""
    return output[0] if isinstance(output, tuple) else output


@contextmanager
def replaced(layers: list[nn.Module], forward: Callable[[int], Callable[..., Any]]) -> Iterator[None]:
    """Give blocks another forward (made from their index) for a while."""
    for index, layer in enumerate(layers):
        layer.forward = forward(index)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
