"""A model as it is for measuring: in evaluation mode, nothing of it learning, in plain arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import nn

F = TypeVar("F", bound=Callable[..., Any])


@contextmanager
def plain_mode() -> Iterator[None]:
    """Plain arithmetic whatever torch mode the caller is in: no autocast, no inference mode, gradients where asked for."""
    off = [torch.autocast(kind, enabled=False) for kind in ("cpu", "cuda")]
    with torch.inference_mode(False), off[0], off[1], torch.enable_grad():
        yield


def in_plain_mode(function: F) -> F:
    """The same function, run in `plain_mode`."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with plain_mode():
            return function(*args, **kwargs)

    return run  # type: ignore[return-value]


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradient for any parameter, so that backward computes none; put back afterwards."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with evaluating(model):
        for parameter in parameters:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in parameters:
                parameter.requires_grad_(True)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; every module's own mode afterwards."""
    training = [module for module in model.modules() if module.training]
    if training:
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
