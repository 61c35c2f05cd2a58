"""Linear projections whatever their storage order: ``nn.Linear``, and GPT-2's ``Conv1D``, which stores the transpose."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from plasticity_env.common.errors import InputError

PLAIN = (torch.float64, torch.float32, torch.bfloat16, torch.float16)  # types of weights that can be cut and repaired


@dataclass(frozen=True)
class HeadSlice:
    """A contiguous piece of one parameter that belongs to one head or KV group."""

    parameter: nn.Parameter
    dim: int
    start: int
    length: int

    def narrow(self, tensor: Tensor) -> Tensor:
        """The same piece of a tensor shaped like the parameter (its gradient, its optimizer moment)."""
        return tensor.narrow(self.dim, self.start, self.length)

    @property
    def data(self) -> Tensor:
        """The piece of the parameter itself, a view without gradient."""
        return self.narrow(self.parameter.data)


def without_adapter(module: nn.Module) -> nn.Module:
    """The projection itself, where an adapter was put around it (PEFT keeps it as ``base_layer``)."""
    while isinstance(inner := getattr(module, "base_layer", None), nn.Module):
        module = inner
    return module


def rows_of(module: nn.Module, start: int, length: int) -> list[HeadSlice]:
    """Some rows of a projection's output, weight and bias."""
    module = without_adapter(module)
    dim = 1 if isinstance(module, Conv1D) else 0
    rows = [HeadSlice(parameter_of(module, "weight"), dim, start, length)]
    if module.bias is not None:
        rows.append(HeadSlice(parameter_of(module, "bias"), 0, start, length))
    return rows


def parameter_of(module: nn.Module, name: str) -> nn.Parameter:
    """A weight or bias that can be cut.

    Raises:
        InputError: If it is quantised, packed, or no matrix.
    """
    parameter = getattr(without_adapter(module), name)
    plain = isinstance(parameter, nn.Parameter) and type(parameter.data) is Tensor
    if not plain or parameter.dtype not in PLAIN or (name == "weight" and parameter.ndim != 2):
        kind = str(getattr(parameter, "dtype", type(parameter).__name__)).removeprefix("torch.")
        raise InputError(
            f"the {name} of a {type(module).__name__} is not a plain matrix of floating-point numbers ({kind}): a quantised or "
            "packed model cannot be pruned, load it in float32, bfloat16 or float16"
        )
    return parameter


def in_features(module: nn.Module) -> int:
    """Inputs of a projection."""
    module = without_adapter(module)
    weight = parameter_of(module, "weight")
    return weight.shape[0] if isinstance(module, Conv1D) else weight.shape[1]


def out_features(module: nn.Module) -> int:
    """Outputs of a projection."""
    module = without_adapter(module)
    weight = parameter_of(module, "weight")
    return weight.shape[1] if isinstance(module, Conv1D) else weight.shape[0]


def is_projection(module: nn.Module) -> bool:
    """True for a module that multiplies by a weight matrix: ``nn.Linear`` or GPT-2's ``Conv1D``."""
    return isinstance(module, nn.Linear | Conv1D)
