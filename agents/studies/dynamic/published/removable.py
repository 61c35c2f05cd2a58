"""What a system removes: single heads, or whole attention layers and MLPs."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from plasticity_env.common.errors import unknown
from plasticity_env.model.flops import CostTable
from plasticity_env.model.plastic_model import PlasticModel

KINDS = ("heads", "blocks")


@dataclass(frozen=True)
class Removable:
    """Things of which each is removed or not.

    Attributes:
        members: (n, L, U) boolean, the units of each thing.
        table: What masks cost.
    """

    members: Tensor = field(repr=False)
    table: CostTable

    @classmethod
    def of(cls, model: PlasticModel, kind: str, table: CostTable) -> Removable:
        """The heads of a model, or its blocks: the attention of each layer, then the MLP of each where it is a unit.

        Raises:
            InputError: Another kind.
        """
        if kind not in KINDS:
            raise unknown("kind of removable parts", kind, list(KINDS))
        layers, units = model.shape
        single = torch.eye(layers * units, dtype=torch.bool).view(layers, units, layers, units)
        if kind == "heads":
            return cls(single[:, : model.heads].flatten(0, 1), table)
        parts = [single[:, : model.heads].any(1)]
        if units > model.heads:
            parts.append(single[:, model.heads :].any(1))
        return cls(torch.cat(parts), table)

    def __len__(self) -> int:
        return len(self.members)

    def without(self, gone: Tensor) -> Tensor:
        """(..., L, U) masks, True for units that stay, from (..., n) booleans, True for things that go."""
        return ~torch.einsum("...n,nlu->...lu", gone.float(), self.members.float()).bool()

    def gates(self, stay: Tensor) -> Tensor:
        """(..., L, U) gates from (..., n) gates of the things, differentiable; units that belong to none stay open."""
        return 1 - torch.einsum("...n,nlu->...lu", 1 - stay, self.members.to(stay))

    def lowest(self, scores: Tensor, target: float) -> Tensor:
        """(..., n) which things go: those of lowest score, as many as come nearest to the target's FLOPs per token.

        Args:
            scores: (..., n); equal ones go in order.
            target: FLOPs per token.
        """
        rank = scores.detach().argsort(dim=-1, stable=True).argsort(dim=-1)
        counts = torch.arange(len(self) + 1).view(-1, *[1] * scores.ndim)
        gone = rank < counts  # (n + 1, ..., n)
        best = (self.table.totals(self.without(gone)) - target).abs().argmin(0)  # (...)
        return rank < best[..., None]
