"""What all initial weights of grown units have in common: a source, values for each piece, and what is done when they grow.

A new kind is one class with a ``name`` and a ``source`` in a file of its own, and one line in
`plasticity_env.growth.initial_weights.INITIAL_WEIGHTS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from plasticity_env.common.errors import InputError
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
        name: Name in the registry.
        measures: Whether it needs ``usefulness``.
        reads_text: Whether it needs `prepare` to be called with calibration text.
        gradual: Whether gates start almost closed. Where it is False the model's function stays the same at growth with the
            gate open, so that the gate opens at once.
        sources: Sources by (layer, unit), for every unit that was asked for.

    Raises:
        InputError: If it measures and was given nothing.
    """

    name: ClassVar[str]
    measures: ClassVar[bool] = True
    reads_text: ClassVar[bool] = False
    gradual: ClassVar[bool] = True

    def __init__(self, usefulness: Tensor | None = None) -> None:
        if self.measures and usefulness is None:
            raise InputError(f"initial weights {self.name!r} need the units' Fisher scores: pass calibration text")
        self.usefulness = usefulness
        self.sources: dict[tuple[int, int], Source] = {}

    @classmethod  # noqa: B027 (most kinds fit every architecture)
    def check(cls, model: PlasticModel) -> None:
        """Refuse an architecture on which this kind cannot hold what it promises.

        Raises:
            InputError: If the architecture is one of these.
        """

    def prepare(self, model: PlasticModel, input_ids: Tensor, batch_size: int = 8) -> None:  # noqa: B027
        """Measure what the weights depend on, on (B, T) calibration text, before the first unit is asked for."""

    @abstractmethod
    def source(self, model: PlasticModel, layer: int, unit: int) -> Source:
        """Choose where a unit's first weights come from."""

    def __call__(
        self, model: PlasticModel, layer: int, unit: int, pieces: list[HeadSlice], generator: torch.Generator | None
    ) -> list[Tensor]:
        """New values of each piece, in its shape: the unit's own pieces, then those of its KV group if that is dead."""
        source = self.sources[layer, unit] = self.source(model, layer, unit)
        if source.layer is None or source.unit is None:
            return small_random(model, layer, unit, pieces, generator)
        return [with_noise(values, generator) for values in weights_of(model, source, len(pieces))]

    def promise(self, model: PlasticModel) -> Tensor | None:
        """(L, U) what ranks pruned units where the loss's slope in their gates is zero; None: the slope itself does."""
        return None

    def share_rows(self, model: PlasticModel, layer: int, rows: Tensor, mask: Tensor) -> None:  # noqa: B027
        """Change, in place, what a layer's other units write, so that the function stays the same.

        Args:
            model: The model, before or after the units of ``mask`` grew.
            layer: Number of the layer.
            rows: (inputs, E) the layer's output projection, rows of grown units included.
            mask: (L, U) boolean, the units that grow.
        """

    def most_useful(self, model: PlasticModel, layer: int, columns: slice) -> int | None:
        """The active unit of highest Fisher score among some columns of a layer, or None if none is active."""
        ranked = self.by_usefulness(model, layer, columns)
        return ranked[0] if ranked else None

    def by_usefulness(self, model: PlasticModel, layer: int, columns: slice) -> list[int]:
        """The active units among some columns of a layer, highest Fisher score first."""
        assert self.usefulness is not None
        active = model.active[layer, columns].nonzero().flatten() + columns.start
        order = self.usefulness[layer, active].argsort(descending=True, stable=True)
        return [int(unit) for unit in active[order]]


def small_random(
    model: PlasticModel, layer: int, unit: int, pieces: list[HeadSlice], generator: torch.Generator | None
) -> list[Tensor]:
    """Random weights of the layer's own spread, a tenth of it for output rows."""
    values = random_weights(model, layer, unit, pieces, generator)
    output = output_index(model, layer, unit)
    values[output] = values[output] * OUTPUT_SHARE
    return values


def output_index(model: PlasticModel, layer: int, unit: int) -> int:
    """Number of the piece that holds a unit's output rows: the last of its own."""
    return len(model.pieces(layer, unit, "unit")) - 1


def same_kind(model: PlasticModel, unit: int) -> slice:
    """The columns of a mask that are heads, or those that are MLP blocks, whichever a unit is."""
    return slice(0, model.heads) if unit < model.heads else slice(model.heads, model.shape[1])


def group_columns(model: PlasticModel, layer: int, unit: int) -> slice:
    """The columns of the heads that share a KV group with a head."""
    size = model.blocks[layer].group_size
    return slice(unit // size * size, (unit // size + 1) * size)


def weights_of(model: PlasticModel, source: Source, count: int) -> list[Tensor]:
    """Copies of the source's pieces, and of its KV group's where ``count`` is more than a unit has alone."""
    assert source.layer is not None
    assert source.unit is not None
    taken = _saved_or_present(model, source.layer, source.unit, "unit")
    if count > len(taken):
        group = source.unit // model.blocks[source.layer].group_size
        taken += _saved_or_present(model, source.layer, group, "group")
    return taken


def with_noise(values: Tensor, generator: torch.Generator | None) -> Tensor:
    """A matrix with noise of a tenth of its spread; biases as they are."""
    if values.ndim < 2:
        return values
    device = generator.device if generator is not None else torch.device("cpu")
    noise = torch.randn(values.shape, generator=generator, dtype=torch.float32, device=device).to(values)
    return values + SYMMETRY_NOISE * values.float().std().to(values) * noise


def _saved_or_present(model: PlasticModel, layer: int, index: int, kind: str) -> list[Tensor]:
    saved = model.saved_weights(layer, index, kind)
    return saved if saved is not None else [piece.data.clone() for piece in model.pieces(layer, index, kind)]
