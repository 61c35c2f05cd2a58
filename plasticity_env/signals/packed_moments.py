"""Second moments as small as they get: the upper triangle in float32, a quarter of the full matrix in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from plasticity_env.signals.moments import Moments


@dataclass(frozen=True)
class PackedMoments:
    """Moments of one text at some sites, by index in ``PlasticModel.sites``.

    Attributes:
        grams: (I (I + 1) / 2,) float32, the upper triangle row by row.
        means: (I,) float32; empty where nobody wants them.
    """

    grams: Mapping[int, Tensor]
    means: Mapping[int, Tensor]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(4 * tensor.numel() for part in (self.grams, self.means) for tensor in part.values())


def pack(sites: Mapping[int, Moments], means: bool = True) -> list[PackedMoments]:
    """Pack moments of n texts: ``gram`` (n, I, I) and ``mean`` (n, I) of each site.

    Args:
        sites: By index.
        means: Whether to keep the means.
    """
    triangles = {}
    for index, of in sites.items():
        numbers, _ = _maps(of.gram.shape[1], of.gram.device)
        triangles[index] = of.gram.flatten(1).index_select(1, numbers).float()  # (n, I (I + 1) / 2)
    return [
        PackedMoments(
            {index: rows[text].clone() for index, rows in triangles.items()},
            {index: of.mean[text].float() for index, of in sites.items() if means},
        )
        for text in range(len(next(iter(triangles.values()))))
    ]


def unpack(packed: Sequence[PackedMoments]) -> dict[int, Moments]:
    """Moments of n texts in float64: ``gram`` (n, I, I) and ``mean`` (n, I) of each site; NaN for means not kept."""
    found = {}
    for index in packed[0].grams:
        rows = torch.stack([each.grams[index] for each in packed])
        inputs = int((2 * rows.shape[1]) ** 0.5)  # I (I + 1) / 2 numbers
        _, places = _maps(inputs, rows.device)
        gram = rows.index_select(1, places).view(-1, inputs, inputs).double()
        kept = [each.means[index].double() for each in packed if each.means]
        found[index] = Moments(gram, torch.stack(kept) if kept else gram.new_full(gram.shape[:2], torch.nan))
    return found


@lru_cache(maxsize=4)
def _maps(inputs: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where the triangle's numbers lie in an (I, I) matrix, and where the matrix's lie in the triangle."""
    down, across = torch.triu_indices(inputs, inputs, device=device)
    numbers = down * inputs + across
    places = torch.empty(inputs, inputs, dtype=torch.long, device=device)
    places[down, across] = places[across, down] = torch.arange(len(numbers), device=device)
    return numbers, places.flatten()
