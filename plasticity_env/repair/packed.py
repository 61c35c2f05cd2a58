"""Second moments as small as they get: the upper triangle in float32, a quarter of the full matrix in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from plasticity_env.repair.statistics import Moments


@dataclass(frozen=True)
class PackedMoments:
    """Moments of one text at some sites.

    Attributes:
        sites: By index in ``PlasticModel.sites``: (I (I + 1) / 2 + I,) float32, the triangle row by row, then the mean.
    """

    sites: Mapping[int, Tensor]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(4 * tensor.numel() for tensor in self.sites.values())


def pack(sites: Mapping[int, Moments]) -> list[PackedMoments]:
    """Pack moments of n texts: ``gram`` (n, I, I) and ``mean`` (n, I) of each site."""
    flat = {}
    for index, moments in sites.items():
        down, across = _triangle(moments.mean.shape[1])
        flat[index] = torch.cat([moments.gram[:, down, across].float(), moments.mean.float()], 1)
    texts = len(next(iter(flat.values())))
    return [PackedMoments({index: rows[text].clone() for index, rows in flat.items()}) for text in range(texts)]


def unpack(packed: Sequence[PackedMoments]) -> dict[int, Moments]:
    """Moments of n texts in float64: ``gram`` (n, I, I) and ``mean`` (n, I) of each site."""
    found = {}
    for index in packed[0].sites:
        rows = torch.stack([each.sites[index] for each in packed]).double()
        inputs = int((2 * rows.shape[1]) ** 0.5) - 1  # I (I + 3) / 2 numbers
        down, across = _triangle(inputs)
        gram = rows.new_empty(len(rows), inputs, inputs)
        gram[:, down, across] = gram[:, across, down] = rows[:, :-inputs]
        found[index] = Moments(gram, rows[:, -inputs:])
    return found


def _triangle(inputs: int) -> tuple[Tensor, Tensor]:
    down, across = torch.triu_indices(inputs, inputs)
    return down, across
