"""Candidates: the new weights of every slot that could grow, made once, measured in place, grown if chosen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from plasticity_env.model.layouts import HeadSlice
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.model.unit_weights import NewWeights


@dataclass(frozen=True)
class Candidates:
    """New weights of pruned units, and of the dead KV groups that would come back with them.

    Use as the ``weights`` of `PlasticModel.grow`, so that what was measured is what grows.

    Attributes:
        units: Weights of units by (layer, unit), values in the order of ``model.pieces(layer, unit, "unit")``.
        groups: Weights of groups by (layer, group), values in the order of ``model.pieces(layer, group, "group")``.
    """

    units: dict[tuple[int, int], list[Tensor]]
    groups: dict[tuple[int, int], list[Tensor]]

    @classmethod
    def make(
        cls, model: PlasticModel, mask: Tensor, initial: NewWeights[PlasticModel], generator: torch.Generator | None
    ) -> Candidates:
        """Make new weights for all units where ``mask`` ((L, U) boolean) is True; the model is left as it is."""
        made = cls({}, {})
        for layer, unit in mask.nonzero().tolist():
            pieces, count = model.pieces(layer, unit, "unit"), len(model.pieces(layer, unit, "unit"))
            group = unit // model.blocks[layer].group_size
            brings_group = model.group_is_dead(layer, unit) and (layer, group) not in made.groups
            if brings_group:
                pieces += model.pieces(layer, group, "group")
            values = initial(model, layer, unit, pieces, generator)
            made.units[layer, unit] = values[:count]
            if brings_group:
                made.groups[layer, group] = values[count:]
        return made

    @contextmanager
    def in_place(self, model: PlasticModel) -> Iterator[None]:
        """Hold the candidates' weights in the closed slots, where a measuring pass sees them; then put the old back."""
        wanted = [(key, "unit", values) for key, values in self.units.items()]
        wanted += [(key, "group", values) for key, values in self.groups.items()]
        before: list[tuple[HeadSlice, Tensor]] = []
        try:
            for (layer, index), kind, values in wanted:
                for piece, value in zip(model.pieces(layer, index, kind), values, strict=True):
                    before.append((piece, piece.data.clone()))
                    piece.data.copy_(value)
            yield
        finally:
            for piece, value in before:
                piece.data.copy_(value)

    def __call__(
        self, model: PlasticModel, layer: int, unit: int, pieces: list[HeadSlice], generator: torch.Generator | None
    ) -> list[Tensor]:
        """The candidate's weights, with those of its KV group where ``pieces`` ask for them."""
        values = self.units[layer, unit]
        if len(pieces) > len(values):
            values = values + self.groups[layer, unit // model.blocks[layer].group_size]
        return values
