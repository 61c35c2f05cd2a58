"""What a grown unit starts from: random weights, a copy of a useful unit, or what the mirrored layer once had.

Each is a `plasticity_env.model.unit_weights.NewWeights` for `PlasticModel.grow`; a new one is one class and one line in
`INITIAL_WEIGHTS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from plasticity_env.common.errors import InputError, unknown
from plasticity_env.model.layouts import HeadSlice
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.model.unit_weights import random_weights

OUTPUT_SHARE = 0.1  # of the layer's own standard deviation: random output rows
SYMMETRY_NOISE = 0.1  # of a copied piece's own standard deviation: two copies of one unit must be able to part


class Source(NamedTuple):
    """Where a grown unit's first weights came from.

    Attributes:
        kind: ``random``, ``active`` (an active unit's weights) or ``pruned`` (the saved weights of a pruned one).
        layer, unit: Layer and index of that unit; None for random weights.
    """

    kind: Literal["random", "active", "pruned"]
    layer: int | None = None
    unit: int | None = None

    def __str__(self) -> str:
        return self.kind if self.layer is None else f"{self.kind} unit {self.unit} of layer {self.layer}"


class InitialWeights(ABC):
    """Makes the first weights of grown units, and remembers where it took them from.

    Keys and values are new only where no active head shares them; where they are shared they stay, whatever the source.

    Args:
        usefulness: (L, U) Fisher scores of the model as it is; None will do for those that do not measure.

    Attributes:
        name: In the registry.
        measures: Whether it needs ``usefulness``.
        sources: Sources by (layer, unit), for every unit that was asked for.

    Raises:
        InputError: It measures and was given nothing.
    """

    name: ClassVar[str]
    measures: ClassVar[bool] = True

    def __init__(self, usefulness: Tensor | None = None) -> None:
        if self.measures and usefulness is None:
            raise InputError(f"initial weights {self.name!r} need the units' Fisher scores: pass calibration text")
        self.usefulness = usefulness
        self.sources: dict[tuple[int, int], Source] = {}

    @abstractmethod
    def source(self, model: PlasticModel, layer: int, unit: int) -> Source:
        """Choose where a unit's first weights come from."""

    def __call__(
        self, model: PlasticModel, layer: int, unit: int, pieces: list[HeadSlice], generator: torch.Generator | None
    ) -> list[Tensor]:
        """New values of each piece, in its shape: the unit's own pieces, then those of its KV group if that is dead."""
        source = self.sources[layer, unit] = self.source(model, layer, unit)
        if source.layer is None or source.unit is None:
            return _small_random(model, layer, unit, pieces, generator)
        taken = _weights_of(model, source.layer, source.unit, "unit")
        if len(pieces) > len(taken):
            taken += _weights_of(model, source.layer, source.unit // model.blocks[layer].group_size, "group")
        return [_with_noise(values, generator) for values in taken]

    def most_useful(self, model: PlasticModel, layer: int, columns: slice) -> int | None:
        """The active unit of highest Fisher score among some columns of a layer, or None if none is active."""
        assert self.usefulness is not None
        active = model.active[layer, columns]
        if not bool(active.any()):
            return None
        best = self.usefulness[layer, columns].masked_fill(~active, -torch.inf).argmax()
        return columns.start + int(best)


class RandomWeights(InitialWeights):
    """Normal weights with the standard deviation of the layer's own parameters, a tenth of it for output rows, zero biases.

    Output rows of full size are noise that training has to take back first: see the measurement in docs/lab/growth.md.
    """

    name = "random"
    measures = False

    def source(self, model: PlasticModel, layer: int, unit: int) -> Source:
        return Source("random")


class CopyWeights(InitialWeights):
    """A copy of the layer's most useful active unit (highest Fisher), with noise; random where the layer has none.

    A head whose KV group is alive keeps that group's keys and values, so it copies the most useful head of the group.
    """

    name = "copy"

    def source(self, model: PlasticModel, layer: int, unit: int) -> Source:
        columns, size = _same_kind(model, unit), model.blocks[layer].group_size
        if unit < model.heads and not model.group_is_dead(layer, unit):
            columns = slice(unit // size * size, (unit // size + 1) * size)
        best = self.most_useful(model, layer, columns)
        return Source("random") if best is None else Source("active", layer, best)


class TransferWeights(InitialWeights):
    """U-Net transfer: the weights that a pruned unit of the mirrored layer (i to L-1-i) had when it was pruned.

    The pruned unit of the same column is taken, else the next one (cyclically); where the mirrored layer has no pruned
    unit, its most useful active one. `sources` says which it was. Noise as for a copy.
    """

    name = "transfer"

    def source(self, model: PlasticModel, layer: int, unit: int) -> Source:
        mirrored, columns = model.shape[0] - 1 - layer, _same_kind(model, unit)
        pruned = (~model.active[mirrored, columns]).nonzero().flatten() + columns.start
        if len(pruned):
            width = columns.stop - columns.start
            return Source("pruned", mirrored, int(pruned[((pruned - unit) % width).argmin()]))
        return Source("active", mirrored, self.most_useful(model, mirrored, columns))


INITIAL_WEIGHTS: dict[str, type[InitialWeights]] = {
    kind.name: kind for kind in (RandomWeights, CopyWeights, TransferWeights)
}


def find_initial_weights(kind: str | type[InitialWeights]) -> type[InitialWeights]:
    """A kind of initial weights by name, or the class that was handed in.

    Raises:
        InputError: No such kind.
    """
    if not isinstance(kind, str):
        return kind
    if kind not in INITIAL_WEIGHTS:
        raise unknown("initial weights", kind, INITIAL_WEIGHTS)
    return INITIAL_WEIGHTS[kind]


def _small_random(
    model: PlasticModel, layer: int, unit: int, pieces: list[HeadSlice], generator: torch.Generator | None
) -> list[Tensor]:
    values = random_weights(model, layer, unit, pieces, generator)
    output = len(model.pieces(layer, unit, "unit")) - 1
    values[output] = values[output] * OUTPUT_SHARE
    return values


def _same_kind(model: PlasticModel, unit: int) -> slice:
    return slice(0, model.heads) if unit < model.heads else slice(model.heads, model.shape[1])


def _weights_of(model: PlasticModel, layer: int, index: int, kind: str) -> list[Tensor]:
    saved = model.saved_weights(layer, index, kind)
    return saved if saved is not None else [piece.data.clone() for piece in model.pieces(layer, index, kind)]


def _with_noise(values: Tensor, generator: torch.Generator | None) -> Tensor:
    if values.ndim < 2:
        return values
    device = generator.device if generator is not None else torch.device("cpu")
    noise = torch.randn(values.shape, generator=generator, dtype=torch.float32, device=device).to(values)
    return values + SYMMETRY_NOISE * values.float().std().to(values) * noise
