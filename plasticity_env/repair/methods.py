"""Repairs as pure functions from (weights, statistics, mask) to a change of one projection.

Each takes the dense projection, the moments of its input in the dense stream and the kept inputs, and touches nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from plasticity_env.signals.linalg import RIDGE
from plasticity_env.signals.moments import Moments


@dataclass(frozen=True)
class Change:
    """What a repair does to a projection.

    Attributes:
        weight: (I, E) the new projection, or None to leave it.
        bias: (E,) to add to the bias, or None.
    """

    weight: Tensor | None = None
    bias: Tensor | None = None


Method = Callable[[Tensor, Moments, Tensor, int, float], Change]


def bias(weight: Tensor, moments: Moments, kept: Tensor, unit_width: int = 1, ridge: float = RIDGE) -> Change:
    """Fold the mean output of the pruned inputs into the bias.

    Args:
        weight: (I, E) dense projection.
        moments: Of its input.
        kept: (I,) boolean, True for inputs that stay.
        unit_width, ridge: Not used.
    """
    moments.check()
    return Change(bias=((moments.mean * ~kept) @ weight.to(moments.mean.dtype)).to(weight.dtype))


def scale(weight: Tensor, moments: Moments, kept: Tensor, unit_width: int, ridge: float = RIDGE) -> Change:
    """Rescale each kept unit's rows by one factor, chosen together by least squares.

    min over s of E||sum_u s_u x_u W_u - x W||^2 + lambda ||s - 1||^2, whose normal equations are
    (C_SS + lambda I) s = C_S: 1 + lambda 1 with C_uv = tr(W_u^T G_uv W_v) and lambda = ridge * mean(diag C).

    Args:
        weight: (I, E) dense projection.
        moments: Of its input.
        kept: (I,) boolean, whole units.
        unit_width: Inputs of a unit.
        ridge: lambda as a share of the mean diagonal of C.
    """
    moments.check()
    if bool(kept.all()) or not bool(kept.any()):
        return Change()
    dense = weight.to(moments.gram.dtype)
    units = len(kept) // unit_width
    overlap = moments.gram * (dense @ dense.t())  # (I, I)
    overlap = overlap.view(units, unit_width, units, unit_width).sum((1, 3))  # (U, U)
    stay = kept.view(units, unit_width)[:, 0]
    system, wanted = overlap[stay][:, stay], overlap[stay].sum(1)
    penalty = ridge * overlap.diagonal().mean().clamp(min=1e-12)
    factors = torch.ones(units, dtype=dense.dtype, device=dense.device)
    eye = torch.eye(len(system), dtype=dense.dtype, device=dense.device)
    factors[stay] = torch.linalg.solve(system + penalty * eye, wanted + penalty)
    return Change(weight=(dense * factors.repeat_interleave(unit_width)[:, None]).to(weight.dtype))


def least_squares(weight: Tensor, moments: Moments, kept: Tensor, unit_width: int = 1, ridge: float = RIDGE) -> Change:
    """Refit the rows of the kept inputs so that they best reproduce the dense output: ridge regression around the old rows.

    W_S' = (G_SS + lambda I)^-1 (G_S: W + lambda W_S), lambda = ridge * mean(diag G), the closed form of
    min ||X_S W_S' - X W||^2 + lambda ||W_S' - W_S||^2.

    Args:
        weight: (I, E) dense projection.
        moments: Of its input.
        kept: (I,) boolean.
        unit_width: Not used.
        ridge: lambda as a share of the mean diagonal of G.

    Returns:
        Repaired kept rows; rows of pruned inputs as they were.

    Raises:
        InputError: Statistics that are not finite.
    """
    moments.check()
    if bool(kept.all()) or not bool(kept.any()):
        return Change()
    gram, dense = moments.gram, weight.to(moments.gram.dtype)
    repaired = weight.clone()
    repaired[kept] = solve(gram[kept][:, kept], gram[kept] @ dense, dense[kept], ridge, gram).to(weight.dtype)
    return Change(weight=repaired)


def solve(system: Tensor, wanted: Tensor, rows: Tensor, ridge: float, gram: Tensor | None = None) -> Tensor:
    """Ridge regression around given rows: (G + lambda I)^-1 (wanted + lambda rows).

    Args:
        system: (S, S) second moments of the inputs.
        wanted: (S, E) second moments of inputs and targets.
        rows: (S, E) what the ridge pulls to.
        ridge: lambda as a share of the mean diagonal of ``gram``.
        gram: (I, I); ``system`` when None.
    """
    penalty = ridge * (system if gram is None else gram).diagonal().mean().clamp(min=1e-12)
    damped = system + penalty * torch.eye(len(system), dtype=system.dtype, device=system.device)
    return torch.cholesky_solve(wanted + penalty * rows, torch.linalg.cholesky(damped))


METHODS: dict[str, Method] = {"bias": bias, "scale": scale, "least_squares": least_squares}
