"""Prefix reuse: a forward without gradients starts at the first layer that changed since the last one on the same batch.

Kept are the hidden states that entered the layers. Weights, repairs, gates, type and device are part of what must not
have changed, and the layers that do run see the same tensors as in a whole forward, so losses are the same to the bit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plasticity_env.common.lru import ByteCache
from plasticity_env.model.layer_stream import as_output, replaced
from plasticity_env.model.layouts import transformer_layers
from plasticity_env.model.plastic_model import PlasticModel

BATCHES = (
    8  # whose hidden states are kept: an episode reads two, and those of past episodes come back in a few searches only
)


@dataclass(frozen=True)
class _Entry:
    """The last forward on one batch.

    Attributes:
        model: What all layers depend on.
        layers: What each layer depends on beside.
        hidden: (B, T, E) by layer: what entered it.
    """

    model: Hashable
    layers: tuple[Hashable, ...]
    hidden: dict[int, Tensor]

    def usable(self, model: Hashable, layers: tuple[Hashable, ...]) -> int:
        """The deepest layer that would be entered by what entered it then; 0 when there is none."""
        if model != self.model:
            return 0
        same = next(
            (i for i, pair in enumerate(zip(self.layers, layers, strict=True)) if pair[0] != pair[1]), len(layers)
        )
        return max((layer for layer in self.hidden if layer <= same), default=0)


class PrefixCache:
    """Hidden states of the last forward on each of the `BATCHES` batches that were read last.

    Args:
        model: Run as it is: its gates, repairs and weights decide how far a forward can be reused.
        limit: Most bytes of hidden states. A batch that does not fit with all its layers keeps every second, third, ...;
            0 turns reuse off.

    Attributes:
        limit: The limit that was given.
        reused, run: Layers that forwards in `resumed` skipped and ran, for reports and tests.
    """

    def __init__(self, model: PlasticModel, limit: float) -> None:
        self._model, self.limit = model, limit
        self._cache: ByteCache[_Entry] = ByteCache(limit)
        self._batches: OrderedDict[Hashable, int] = OrderedDict()  # of each its chunks; the one read last at the end
        self.reused = self.run = 0

    @property
    def nbytes(self) -> int:
        """Bytes of hidden states held."""
        return self._cache.nbytes

    def clear(self) -> None:
        """Forget all hidden states."""
        self._cache.clear()
        self._batches.clear()

    @contextmanager
    def resumed(self, batch: Hashable, chunk: int = 0, chunks: int = 1) -> Iterator[None]:
        """Let the one forward of the model inside start as late as it can, and keep what enters its layers.

        Args:
            batch: Names the tokens of this forward and of the others that read the batch; the same name must mean the same
                tokens.
            chunk: Number of this forward among them.
            chunks: How many there are, which share the limit.
        """
        layers = transformer_layers(self._model.model)
        if not self.limit or torch.is_grad_enabled() or self._model.model.training or _watched(layers):
            yield
            return
        context, signatures = self._signatures()
        known = self._cache.get((batch, chunk))
        start = 0 if known is None else known.usable(context, signatures)
        hidden = {} if known is None else {i: state for i, state in known.hidden.items() if i <= start}
        step: list[int] = []  # which multiples of layers are kept, once their size is known
        forwards = [layer.forward for layer in layers]

        def note(layer: int, state: Tensor) -> None:
            if not step:
                room = int(self.limit / (chunks * state.nbytes))  # layers
                step.append(-(-(len(layers) - 1) // room) if room else len(layers))
            if layer and layer % step[0] == 0:
                hidden[layer] = state

        def forward(index: int) -> Callable[..., Any]:
            def skip(state: Tensor, *args: Any, **kwargs: Any) -> Any:
                return as_output(self._model.model, state)

            def run(state: Tensor, *args: Any, **kwargs: Any) -> Any:
                state = hidden[start] if start and index == start else state
                note(index, state)
                return forwards[index](state, *args, **kwargs)

            return skip if index < start else run

        with replaced(layers, forward):
            yield
        self.reused += start
        self.run += len(layers) - start
        entry = _Entry(context, signatures, hidden)
        self._cache.put((batch, chunk), entry, sum(state.nbytes for state in hidden.values()))
        self._batches[batch] = max(chunks, self._batches.get(batch, 0))
        self._batches.move_to_end(batch)
        if len(self._batches) > BATCHES:
            oldest, parts = self._batches.popitem(last=False)
            for number in range(parts):
                self._cache.drop((oldest, number))

    def _signatures(self) -> tuple[Hashable, tuple[Hashable, ...]]:
        model = self._model
        gates, repairs = model.state.gates, model.repairs
        if gates is None:
            gates = torch.ones(model.shape)
        rows = [row.numpy().tobytes() for row in gates.detach().cpu()]
        serials = {index: repair.serial for index, repair in repairs.items()}
        layers = tuple(
            (row, *(serials.get(site.index) for site in model.sites_of(layer))) for layer, row in enumerate(rows)
        )
        return (model.weight_version, model.dtype, model.device), layers


def _watched(layers: list[nn.Module]) -> bool:
    """Whether someone hooked into the layers (a U-Net skip does): what was skipped would be missed there."""
    return any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)
