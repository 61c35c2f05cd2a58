"""What each layer of a model computes inside, heard during a forward pass: what structural distillation compares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from plasticity_env.model.layouts import transformer_layers
from plasticity_env.model.plastic_model import PlasticModel

PLACES = ("hidden", "attention")


@contextmanager
def layer_outputs(model: PlasticModel, places: Sequence[str]) -> Iterator[dict[str, list[Tensor]]]:
    """Hear what the layers compute in the forward passes inside.

    Args:
        model: Model whose layers are heard.
        places: ``hidden`` (hidden states after each layer), ``attention`` (what each layer's attention writes), or both.

    Yields:
        (B, T, E) of layer 0, 1, ..., by place, once a forward pass is over.
    """
    heard: dict[str, list[Tensor]] = {place: [] for place in places}
    modules: dict[str, list[nn.Module]] = {
        "hidden": transformer_layers(model.model),
        "attention": [block.output for block in model.blocks],
    }

    def note(place: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            heard[place].append(output[0] if isinstance(output, tuple) else output)

        return hook

    handles = [module.register_forward_hook(note(place)) for place in places for module in modules[place]]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def relative_error(student: Sequence[Tensor], teacher: Sequence[Tensor], counted: Tensor) -> Tensor:
    """How far the layers' outputs are from a teacher's: squared distance over squared norm, mean over layers, summed over tokens.

    Args:
        student, teacher: (B, T, E) of each layer.
        counted: (B, T) boolean, the positions that count.

    Returns:
        A scalar, differentiable in ``student``; over the number of counted positions it is 0 where they are the same, and 1
        where the student writes nothing.
    """
    errors = []
    for ours, theirs in zip(student, teacher, strict=True):
        mine = ours.reshape(*counted.shape, -1)[counted].float()  # (n, E)
        wanted = theirs.reshape(*counted.shape, -1)[counted].float()
        scale = wanted.square().sum(-1).mean().clamp(min=torch.finfo(torch.float32).tiny)
        errors.append((mine - wanted).square().sum() / scale)
    return torch.stack(errors).mean()
