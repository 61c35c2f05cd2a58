"""U-Net skips: a layer's hidden state, times a gate that starts at zero, is added to the input of its mirror image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from plasticity_env.common.errors import InputError
from plasticity_env.model.layouts import transformer_layers
from plasticity_env.model.plastic_model import PlasticModel


class UNetSkip(nn.Module):
    """Adds ``gate * (hidden state after layer i)`` to the input of layer L-1-i, for each i of the first half.

    The gates are learnable scalars that start at zero, so a fresh skip changes nothing. It works by hooks on the
    transformer blocks: the wrapped model keeps its own state_dict, this module has its own, and the KV cache is untouched
    (a skip joins states of the same position). Pairs of neighbours (i + 1 = L-1-i) are left out: there the skip's two ends
    are one hidden state. Give an optimizer ``skip.parameters()`` beside the model's.

    Args:
        model: A model of three layers or more; it is hooked until `remove` is called.

    Attributes:
        pairs: (i, L-1-i), outermost first.
        gates: Parameter of shape (pairs,).

    Raises:
        InputError: Too few layers.
    """

    def __init__(self, model: PlasticModel) -> None:
        super().__init__()
        layers = transformer_layers(model.model)
        last = len(layers) - 1
        self.pairs = [(i, last - i) for i in range(len(layers) // 2) if last - i > i + 1]
        if not self.pairs:
            raise InputError(f"a skip needs at least 3 layers, this model has {len(layers)}")
        self.width = int(model.blocks[0].output_weight().shape[1])
        self.gates = nn.Parameter(torch.zeros(len(self.pairs), dtype=model.dtype, device=model.device))
        self._model = [model]  # in a list, so that the model is no submodule of this one
        self._kept: dict[int, Tensor] = {}  # by pair; emptied as the pass goes on
        self._handles = []
        for index, (first, second) in enumerate(self.pairs):
            self._handles.append(layers[first].register_forward_hook(_Keep(self, index)))
            self._handles.append(layers[second].register_forward_pre_hook(_Add(self, index), with_kwargs=True))
        model.skip_flops += self.flops

    @property
    def flops(self) -> float:
        """FLOPs per token: one multiply and one add an element, 2 E a skip.

        `plasticity_env.model.flops` of the model includes it; ``FlopCounterMode`` counts no elementwise work, so nothing here.
        """
        return 2.0 * self.width * len(self.pairs)

    def remove(self) -> None:
        """Take the hooks off: the model is as it was without skips."""
        if self._handles:
            self._model[0].skip_flops -= self.flops
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._kept.clear()


class _Keep:
    """Forward hook of a pair's first layer: keeps its hidden state."""

    def __init__(self, skip: UNetSkip, index: int) -> None:
        self.skip, self.index = skip, index

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        self.skip._kept[self.index] = output[0] if isinstance(output, tuple) else output  # (B, T, E)


class _Add:
    """Forward pre-hook of a pair's second layer: adds the gated hidden state to its input."""

    def __init__(self, skip: UNetSkip, index: int) -> None:
        self.skip, self.index = skip, index

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        kept = self.skip._kept.pop(self.index, None)
        if kept is None:
            first, second = self.skip.pairs[self.index]
            raise InputError(
                f"layer {second} ran without layer {first} before it: a U-Net skip needs a whole forward pass"
            )
        gate = self.skip.gates[self.index].to(kept)
        if args:
            return (args[0] + gate * kept, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": kwargs["hidden_states"] + gate * kept}
