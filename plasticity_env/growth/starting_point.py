"""What growth starts from: a model or its holder, maybe with other weights and other active heads than it has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from plasticity_env.common.errors import InputError, unknown
from plasticity_env.model.plastic_model import PlasticModel

Heads = Tensor | Iterable[tuple[int, int]]


@runtime_checkable
class HoldsModel(Protocol):
    """What holds a model and knows text to measure it on, as `functional.pruning_module.PruningModule` does."""

    @property
    def model(self) -> PlasticModel:
        """The model to grow in."""

    def calibration_ids(self) -> Tensor:
        """(B, T) token ids."""


def held_model(model: PlasticModel | HoldsModel) -> tuple[PlasticModel, HoldsModel | None]:
    """The model, and what holds it, if anything does.

    Raises:
        InputError: Neither of the two.
    """
    if isinstance(model, PlasticModel):
        return model, None
    if isinstance(model, HoldsModel) and isinstance(model.model, PlasticModel):
        return model.model, model
    raise InputError(
        f"cannot grow heads in a {type(model).__name__}: wrap it with PlasticModel(model) and prune heads first"
    )


@contextmanager
def started_from(
    model: PlasticModel, params: Mapping[str, Tensor] | None, active_heads: Heads | None
) -> Iterator[None]:
    """Give a model weights and prune the heads that are not active; both are undone where what follows is refused.

    Args:
        model: Edited in place.
        params: Weights by the names of ``model.named_parameters()`` or of the stock model's; None leaves the weights.
        active_heads: (L, H) boolean or (layer, head) pairs; None leaves the heads.

    Raises:
        InputError: A weight or head that the model does not have or of another shape, or a head that is pruned.
    """
    if params is None and active_heads is None:
        yield
        return
    values = [] if params is None else _values(model, params)
    gone = None if active_heads is None else model.active & ~_mask(model, active_heads)
    before = model.snapshot()
    try:
        with torch.no_grad():
            changed = [(own, value) for own, value in values if not torch.equal(own, value.to(own))]
            for own, value in changed:
                own.copy_(value)
        if changed:
            model.weights_changed()
        if gone is not None and bool(gone.any()):
            model.prune(gone)
        yield
    except InputError:
        model.restore(before)
        raise


def _values(model: PlasticModel, params: Mapping[str, Tensor]) -> list[tuple[nn.Parameter, Tensor]]:
    names = dict(model.named_parameters(remove_duplicate=False))
    names |= dict(model.model.named_parameters(remove_duplicate=False))
    for name, value in params.items():
        if name not in names:
            raise unknown("weight in params", name, list(names)[:4], ", ... (see model.named_parameters())")
        if value.shape != names[name].shape:
            raise InputError(f"params[{name!r}] must be of shape {tuple(names[name].shape)}, got {tuple(value.shape)}")
    return [(names[name], value) for name, value in params.items()]


def _mask(model: PlasticModel, heads: Heads) -> Tensor:
    """(L, U) boolean of the heads that are to be active; MLP blocks stay as they are."""
    layers, count = model.shape[0], model.heads
    mask = model.active.clone()
    mask[:, :count] = False
    if isinstance(heads, Tensor):
        if heads.dtype != torch.bool or heads.shape != (layers, count):
            raise InputError(
                f"active_heads must be boolean {(layers, count)} or (layer, head) pairs, got {heads.dtype} {tuple(heads.shape)}"
            )
        heads = [(layer, head) for layer, head in heads.nonzero().tolist()]
    for layer, head in heads:
        if not (0 <= layer < layers and 0 <= head < count):
            raise InputError(
                f"active_heads names head {head} of layer {layer}: layers are 0 to {layers - 1}, heads 0 to {count - 1}"
            )
        if not bool(model.active[layer, head]):
            raise InputError(
                f"active_heads names head {head} of layer {layer}, which is pruned: revive it first, or leave it out"
            )
        mask[layer, head] = True
    return mask
