"""Repairs as pure functions from (weights, statistics, masks) to what n masks want in the place of one projection.

Each takes the dense projection, the moments of its input in each mask's dense stream and the kept inputs, and touches nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from plasticity_env.signals.batched_model import Projection
from plasticity_env.signals.linalg import RIDGE, alike
from plasticity_env.signals.moments import Moments

Change = Projection  # the name that it had until version 0.2
Method = Callable[[Tensor, Moments, Tensor, int, float], Projection]


def bias(weight: Tensor, moments: Moments, kept: Tensor, unit_width: int = 1, ridge: float = RIDGE) -> Projection:
    """Fold the mean output of the pruned inputs into the bias.

    Args:
        weight: (I, E) dense projection.
        moments: Moments of its input, ``mean`` (n, I).
        kept: (n, I) boolean on the CPU, True for inputs that stay.
        unit_width, ridge: Not used.
    """
    moments.check()
    gone = (moments.mean * ~kept.to(weight.device)) @ weight.to(moments.mean.dtype)
    return Projection(bias=gone.to(weight.dtype))


def scale(weight: Tensor, moments: Moments, kept: Tensor, unit_width: int, ridge: float = RIDGE) -> Projection:
    """Rescale each kept unit's rows by one factor, chosen together by least squares.

    min over s of E||sum_u s_u x_u W_u - x W||^2 + lambda ||s - 1||^2, whose normal equations are
    (C_SS + lambda I) s = C_S: 1 + lambda 1 with C_uv = tr(W_u^T G_uv W_v) and lambda = ridge * mean(diag C).

    Args:
        weight: (I, E) dense projection.
        moments: Moments of its input, ``gram`` (n, I, I).
        kept: (n, I) boolean on the CPU, whole units.
        unit_width: Inputs of a unit.
        ridge: lambda as a share of the mean diagonal of C.
    """
    moments.check()
    dense = weight.to(moments.gram.dtype)
    units = weight.shape[0] // unit_width
    overlap = moments.gram * (dense @ dense.t())  # (n, I, I)
    overlap = overlap.unflatten(2, (units, unit_width)).unflatten(1, (units, unit_width)).sum((2, 4))  # (n, U, U)
    penalty = ridge * overlap.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)  # (n,)
    factors = torch.ones(overlap.shape[:2], dtype=dense.dtype, device=dense.device)
    for rows, inside, outside in alike(kept[:, ::unit_width]):
        if inside.shape[1] and outside.shape[1]:
            system = overlap[rows[:, None, None], inside[:, :, None], inside[:, None]]  # (k, S, S)
            system.diagonal(dim1=1, dim2=2).add_(penalty[rows, None])
            wanted = overlap[rows[:, None], inside].sum(2) + penalty[rows, None]  # (k, S)
            factors[rows[:, None], inside] = torch.linalg.solve(system, wanted)
    return Projection(weight=(dense * factors.repeat_interleave(unit_width, 1)[:, :, None]).to(weight.dtype))


def least_squares(
    weight: Tensor, moments: Moments, kept: Tensor, unit_width: int = 1, ridge: float = RIDGE
) -> Projection:
    """Refit the rows of the kept inputs so that they best reproduce the dense output: ridge regression around the old rows.

    W_S' = W_S + A W_P with A = (G_SS + lambda I)^-1 G_SP, S the kept and P the pruned inputs and lambda = ridge * mean(diag G),
    the closed form of min ||X_S W_S' - X W||^2 + lambda ||W_S' - W_S||^2.

    Args:
        weight: (I, E) dense projection.
        moments: Moments of its input, ``gram`` (n, I, I).
        kept: (n, I) boolean on the CPU.
        unit_width: Not used.
        ridge: lambda as a share of the mean diagonal of G.

    Returns:
        Repaired kept rows; rows of pruned inputs as they were, and all rows where none or all are kept.

    Raises:
        InputError: Statistics that are not finite.
    """
    moments.check()
    dense, repaired = weight.to(moments.gram.dtype), weight.repeat(len(kept), 1, 1)  # (n, I, E)
    for rows, inside, outside in alike(kept):
        if inside.shape[1] and outside.shape[1]:
            mix = mixing(moments.gram[rows], inside, outside, ridge)
            repaired[rows[:, None], inside] = (dense[inside] + mix @ dense[outside]).to(weight.dtype)
    return Projection(weight=repaired)


def mixing(gram: Tensor, inside: Tensor, outside: Tensor, ridge: float = RIDGE) -> Tensor:
    """What kept inputs say of pruned ones: A = (G_SS + lambda I)^-1 G_SP, lambda = ridge * mean(diag G).

    Args:
        gram: (k, I, I) second moments.
        inside: (k, S) numbers of the kept inputs.
        outside: (k, P) those of the pruned ones.
        ridge: lambda as a share of the mean diagonal.

    Returns:
        (k, S, P).
    """
    penalty = ridge * gram.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)  # (k,)
    which, down = torch.arange(len(gram), device=gram.device)[:, None, None], inside[:, :, None]
    system, wanted = gram[which, down, inside[:, None]], gram[which, down, outside[:, None]]  # (k, S, S), (k, S, P)
    system.diagonal(dim1=1, dim2=2).add_(penalty[:, None])
    return torch.cholesky_solve(wanted, torch.linalg.cholesky(system))


def solve(system: Tensor, wanted: Tensor, rows: Tensor, ridge: float) -> Tensor:
    """Ridge regression around given rows: (G + lambda I)^-1 (wanted + lambda rows).

    Args:
        system: (S, S) second moments of the inputs.
        wanted: (S, E) second moments of inputs and targets.
        rows: (S, E) what the ridge pulls to.
        ridge: lambda as a share of the mean diagonal of ``system``.
    """
    penalty = ridge * system.diagonal().mean().clamp(min=1e-12)
    damped = system + penalty * torch.eye(len(system), dtype=system.dtype, device=system.device)
    return torch.cholesky_solve(wanted + penalty * rows, torch.linalg.cholesky(damped))


METHODS: dict[str, Method] = {"bias": bias, "scale": scale, "least_squares": least_squares}


def find_method(method: str | Method) -> Method:
    """A method by its name in `METHODS`, or the function that was handed in."""
    return METHODS[method] if isinstance(method, str) else method
