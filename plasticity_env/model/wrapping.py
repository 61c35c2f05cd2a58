"""Functions that take a plain Hugging Face model as well as a `PlasticModel`: wrap it permanently or for a moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from plasticity_env.model.modes import PruningMode
from plasticity_env.model.plastic_model import PlasticModel


def as_plastic(model: nn.Module, mode: str | PruningMode = PruningMode.ADAPTIVE) -> PlasticModel:
    """The model itself where it is a `PlasticModel`, else a `PlasticModel` around it, which edits it in place.

    Args:
        model: A `PlasticModel`, or a Hugging Face causal LM.
        mode: Mode of a new wrapper.

    Raises:
        InputError: The architecture has no layout, or another `PlasticModel` prunes this model.
    """
    if isinstance(model, PlasticModel):
        return model
    return PlasticModel(model, mode)


@contextmanager
def plastic_view(model: nn.Module) -> Iterator[PlasticModel]:
    """Look at a model through a `PlasticModel`; a plain one is left as it was, attention implementation included.

    Args:
        model: A `PlasticModel`, which is yielded itself, or a Hugging Face causal LM.

    Raises:
        InputError: If the model is refused (see `as_plastic`).
    """
    if isinstance(model, PlasticModel):
        yield model
        return
    view = as_plastic(model)
    try:
        yield view
    finally:
        view.let_go()
