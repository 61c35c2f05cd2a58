"""Parallel repair of several versions of one site at once, each with its own mask and statistics.

Least squares gives W_S' = W_S + A W_P with A = (G_SS + lambda I)^-1 G_SP, S kept and P pruned inputs, so what a version
needs beside the shared weights is G alone; repaired rows exist for the length of a pass.
"""

from __future__ import annotations

import torch
from torch import Tensor

from plasticity_env.repair.methods import METHODS
from plasticity_env.signals.batched_model import Projection
from plasticity_env.signals.linalg import RIDGE, alike
from plasticity_env.signals.moments import Moments


def project(
    method: str, weight: Tensor, moments: Moments, kept: Tensor, unit_width: int, ridge: float = RIDGE
) -> Projection:
    """Repair n versions of one projection; each comes out as the method of `METHODS` makes it.

    Args:
        method: Name in `METHODS`.
        weight: (I, E) dense projection.
        moments: Of the input of each version: ``gram`` (n, I, I) and ``mean`` (n, I), on any device.
        kept: (n, I) boolean on the CPU, whole units; a version that keeps all, or none, is left as it is.
        unit_width: Inputs of a unit.
        ridge: lambda as a share of the mean diagonal.

    Raises:
        InputError: Statistics that are not finite.
    """
    changed = (~kept).any(1).nonzero()[:, 0]
    chosen = Moments(moments.gram[changed].to(weight.device), moments.mean[changed].to(weight.device))
    if method != "bias":
        chosen = Moments(chosen.gram, torch.zeros_like(chosen.mean))  # nobody asks for them
    chosen.check()
    kept, versions = kept[changed], len(kept)
    if method == "bias":
        bias = weight.new_zeros(versions, weight.shape[1])
        gone = (chosen.mean * ~kept.to(weight.device)) @ weight.to(chosen.mean.dtype)
        bias[changed] = gone.to(weight.dtype)
        return Projection(bias=bias)
    repaired = weight.repeat(versions, 1, 1)  # (n, I, E), a copy even of one
    if method == "least_squares":
        _refit(repaired, weight, changed, chosen.gram, kept, ridge)
        return Projection(weight=repaired)
    for index, gram, mean, stay in zip(changed.tolist(), chosen.gram, chosen.mean, kept, strict=True):
        change = METHODS[method](weight, Moments(gram, mean), stay.to(weight.device), unit_width, ridge)
        if change.weight is not None:
            repaired[index] = change.weight
    return Projection(weight=repaired)


def _refit(repaired: Tensor, weight: Tensor, changed: Tensor, gram: Tensor, kept: Tensor, ridge: float) -> None:
    """Least squares of versions ``changed`` (k of n): adds A W_P to the kept rows of ``repaired`` (n, I, E)."""
    penalty = ridge * gram.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)  # (k,)
    for rows, inside, outside in alike(kept):
        if not inside.shape[1]:
            continue
        here, down = rows[:, None, None], inside[:, :, None]
        system, wanted = gram[here, down, inside[:, None]], gram[here, down, outside[:, None]]  # (k, S, S), (k, S, P)
        system.diagonal(dim1=1, dim2=2).add_(penalty[rows, None])
        mix = torch.cholesky_solve(wanted, torch.linalg.cholesky(system)).to(weight.dtype)  # A
        repaired[changed[rows, None], inside] += mix @ weight[outside]
