"""What a unit does that the others cannot make up for.

Least-squares repair replaces a pruned unit's output x_u by what the kept ones predict of it, x_S A with
A = (G_SS + lambda I)^-1 G_Su. Removing unit u and repairing therefore changes the projection's output by -r_u W_u, with the
residual r_u = x_u - x_S A. Scoring the loss's slope along r_u instead of x_u gives a Fisher (or gradient) score of the
removal *with* its repair: a unit may carry much of the loss and still be free to go, because others can speak for it.

On the text that the regression was fitted on, the kept units predict better than elsewhere: with few tokens an input they
memorise it. So the score is measured cross-fitted as well: what the kept units cannot predict of u on one half of the text
after they were fitted on the other half (cross-fitting, as in Chernozhukov et al. 2018).
"""

from __future__ import annotations

import torch
from torch import Tensor

from plasticity_env.common.errors import InputError
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.signals.linalg import RIDGE, alike, unit_corners
from plasticity_env.signals.measure import gather
from plasticity_env.signals.moments import Statistics
from plasticity_env.signals.slopes import Projector, Projectors


def residual_projector(gram: Tensor, kept: Tensor, unit_width: int, ridge: float = RIDGE) -> Projector:
    """Matrices that take a projection's input to every kept unit's residual, given the other kept units, for n masks or texts.

    With B = (G_SS + lambda I)^-1, the columns of unit u are B_:u (B_uu)^-1 (the block inverse holds the regression of u on
    the rest).

    Args:
        gram: (n, I, I) float64 second moments of the input in the dense stream.
        kept: (n, I) boolean on the CPU, whole units.
        unit_width: Inputs of a unit.
        ridge: lambda as a share of the mean diagonal of G.

    Returns:
        P and B, (n, I, I): ``x @ P`` holds r_u in unit u's columns; rows and columns of pruned units are 0.

    Raises:
        InputError: Second moments that are not finite.
    """
    if not bool(torch.isfinite(gram).all()):
        raise InputError("the model's activations are not finite: its weights are broken, or it has diverged")
    projectors, inverses = torch.zeros_like(gram), torch.zeros_like(gram)
    penalty = ridge * gram.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)  # (n,)
    for rows, inside, _ in alike(kept):
        count, units = inside.shape[1], inside.shape[1] // unit_width
        if not count:
            continue
        here, down, across = rows[:, None, None], inside[:, :, None], inside[:, None]
        system = gram[here, down, across]  # (k, S, S)
        system.diagonal(dim1=1, dim2=2).add_(penalty[rows, None])
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(system))
        columns = inverse.view(len(rows), count, units, unit_width).transpose(1, 2)  # (k, u, S, w): of each unit
        solved = columns @ torch.linalg.inv(unit_corners(inverse, unit_width))
        projectors[here, down, across] = solved.transpose(1, 2).flatten(2)
        inverses[here, down, across] = inverse
    return Projector(projectors.float(), inverses)


def model_projectors(model: PlasticModel, statistics: Statistics) -> dict[int, Projector]:
    """(1, I, I) projectors of every site that was measured, for a model's present mask, on its device.

    Args:
        model: A model whose active units are the kept ones.
        statistics: Statistics of the dense stream.
    """
    active = model.active
    found = {}
    for index, moments in statistics.sites.items():
        site = model.sites[index]
        gram, kept = moments.gram[None].to(model.device), site.kept_inputs(active)[None]
        found[index] = residual_projector(gram, kept, site.unit_width)
    return found


def crossfit_projectors(
    model: PlasticModel, input_ids: Tensor, batch_size: int = 8
) -> tuple[Projectors, tuple[Projectors, Projectors]]:
    """What `measure` wants for the residual scores and for the cross-fitted ones: one forward over the dense model.

    Args:
        model: A model whose active units are the kept ones.
        input_ids: (B, T) calibration text; of a single sequence both halves are that sequence.
        batch_size: Sequences in one pass.

    Returns:
        Projectors fitted on all sequences, and the two for the first half (fitted on the second) and the second half.
    """
    middle = len(input_ids) // 2
    parts = (input_ids[:middle], input_ids[middle:]) if middle else (input_ids,)
    with model.dense():
        statistics = [gather(model, part, batch_size) for part in parts]
    first, second = (model_projectors(model, statistics[index]) for index in (0, -1))
    return model_projectors(model, Statistics.pooled(statistics)), (second, first)
