"""A model as it is for measuring: in evaluation mode, nothing of it learning."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from plasticity_env.model import PlasticModel


@contextmanager
def frozen(model: PlasticModel) -> Iterator[None]:
    """Evaluation mode and no gradient for any parameter, so that backward computes none; put back afterwards."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    training = model.training
    switch = training or model.model.training
    if switch:
        model.eval()
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
        if switch:
            model.train(training)
