"""Several repaired versions of one model side by side in a batch: shared weights, output projections of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from plasticity_env.model.layer_stream import replaced
from plasticity_env.model.layouts import Site
from plasticity_env.model.plastic_model import PlasticModel


@dataclass(frozen=True)
class Projection:
    """What n versions of a model have in the place of one output projection.

    Attributes:
        weight: (n, I, E), or None where all keep the model's.
        bias: (n, E) to add to the model's bias, or None.
    """

    weight: Tensor | None = None
    bias: Tensor | None = None


@contextmanager
def projected(model: PlasticModel, projections: Mapping[int, Projection]) -> Iterator[None]:
    """Let each n-th part of a batch (equally many sequences of each version, in order) use its own projections.

    Args:
        model: Its weights are shared and not touched.
        projections: Projections by index in ``model.sites``.
    """
    sites = [model.sites[index] for index in projections]
    runs = [_runner(site, projection) for site, projection in zip(sites, projections.values(), strict=True)]
    with replaced([site.output for site in sites], lambda index: runs[index]):
        yield


def weights_of(model: PlasticModel, projections: Mapping[int, Projection]) -> dict[int, Tensor]:
    """The projection of every site: (n, I, E) where versions have their own, else (1, I, E)."""
    found = {}
    for index, site in enumerate(model.sites):
        own = projections[index].weight if index in projections else None
        found[index] = site.output_weight()[None] if own is None else own
    return found


def _runner(site: Site, projection: Projection) -> Callable[[Tensor], Tensor]:
    weight = site.output_weight()[None] if projection.weight is None else projection.weight  # (n or 1, I, E)
    bias = None if site.output.bias is None else site.output.bias.detach()  # type: ignore[union-attr, operator]
    if projection.bias is not None:
        bias = projection.bias if bias is None else projection.bias + bias  # (n, E)
    if bias is not None and bias.ndim == 2:
        bias = bias[:, None]  # (n, 1, E)
    count = len(weight) if projection.bias is None else len(projection.bias)
    weight = weight.expand(count, -1, -1)

    def run(rows: Tensor) -> Tensor:
        cut = rows.reshape(count, -1, rows.shape[-1])  # (n, b * T, I)
        out = torch.bmm(cut, weight) if bias is None else torch.baddbmm(bias, cut, weight)
        return out.view(*rows.shape[:-1], weight.shape[-1])

    return run
