"""What a unit does that the others cannot make up for.

Least-squares repair replaces a pruned unit's output x_u by what the kept ones predict of it, x_S A with
A = (G_SS + lambda I)^-1 G_Su. Removing unit u and repairing therefore changes the projection's output by -r_u W_u, with the
residual r_u = x_u - x_S A. Scoring the loss's slope along r_u instead of x_u gives a Fisher (or gradient) score of the
removal *with* its repair: a unit may carry much of the loss and still be free to go, because others can speak for it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from plasticity_env.repair.methods import RIDGE


def residual_projector(gram: Tensor, kept: Tensor, unit_width: int, ridge: float = RIDGE) -> Tensor:
    """Matrix that takes a projection's input to every kept unit's residual, given the other kept units.

    With B = (G_SS + lambda I)^-1, the columns of unit u are B_:u (B_uu)^-1 (the block inverse holds the regression of u on
    the rest).

    Args:
        gram: (I, I) float64 second moments of the input in the dense stream.
        kept: (I,) boolean, whole units.
        unit_width: Inputs of a unit.
        ridge: lambda as a share of the mean diagonal of G.

    Returns:
        (I, I) float32 P: ``x @ P`` holds r_u in unit u's columns; rows and columns of pruned units are 0.
    """
    projector = torch.zeros_like(gram)
    inside = kept.nonzero().flatten()
    if not len(inside):
        return projector.float()
    penalty = ridge * gram.diagonal().mean().clamp(min=1e-12)
    system = gram[inside][:, inside] + penalty * torch.eye(len(inside), dtype=gram.dtype, device=gram.device)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(system))  # (S, S)
    units = inverse.view(len(inside), -1, unit_width).transpose(0, 1)  # (u, S, w): columns of each unit
    corners = torch.stack([inverse[s : s + unit_width, s : s + unit_width] for s in range(0, len(inside), unit_width)])
    columns = torch.linalg.solve(corners, units, left=False)  # (u, S, w)
    projector[inside[:, None], inside[None]] = columns.transpose(0, 1).flatten(1)
    return projector.float()
