"""What units of one layer cost together: backward stepwise elimination under K-FAC.

Scores of single units do not add up. Two heads that say the same are each free to go, for the other one speaks for it, and dear
together. So units are taken out one after another: the cheapest goes, the others make up for it (the block elimination
of OBS, Hassibi & Stork 1993, as ZipLM, Kurtic et al. 2023, does it on a layer's output), and the next one is priced by what is left.
Here the price is that of K-FAC (`plasticity_env.slopes`): tr(E[r r^T] E[h h^T]) of the residual r that the unit has by
now and the loss's gradient h in it, both as they stand after the eliminations before.

Three matrices hold the state: B = (G_SS + lambda I)^-1 of the units S that are left, Z = B X B with the second moments X of the text
that is scored, and the second moments H of the gradients. Unit u has the residual covariance B_uu^-1 Z_uu B_uu^-1. When j goes,
all three change by one congruence, M -> T M T^T with T = I - B_:j B_jj^-1 e_j^T, of which B loses its rows and columns of j.
"""

from __future__ import annotations

import torch
from torch import Tensor

from plasticity_env.repair.versions import alike, unit_corners


def eliminate(inverse: Tensor, moment: Tensor, gradient: Tensor, unit_width: int) -> tuple[Tensor, Tensor]:
    """Price the units of k sites of one shape, each alone and each in its turn.

    Args:
        inverse: (k, I, I) B, float64; rows and columns of pruned units are 0.
        moment: (k, I, I) sums of outer products of the inputs x.
        gradient: (k, I, I) the same of the loss's gradients in x.
        unit_width: W, inputs of a unit.

    Returns:
        Two of (k, I / W), float64, 0 for pruned units: tr(sum r r^T sum h h^T) when the unit alone goes, and when it goes in its turn,
        after all that are cheaper; the latter never fall from one turn to the next.
    """
    alone = inverse.new_zeros(len(inverse), inverse.shape[1] // unit_width)
    in_turn = torch.zeros_like(alone)
    kept = (inverse.diagonal(dim1=1, dim2=2) != 0).cpu()
    for rows, inside, _ in alike(kept):
        if not inside.shape[1]:
            continue
        here, down, across = (index.to(inverse.device) for index in (rows[:, None, None], inside[:, :, None], inside[:, None]))
        solver = inverse[here, down, across]
        seen = solver @ moment[here, down, across].to(solver.dtype) @ solver
        state = torch.stack([solver, seen, gradient[here, down, across].to(solver.dtype)])  # (3, k, S, S)
        names = (inside[:, ::unit_width] // unit_width).to(inverse.device)  # (k, s)
        first, turns = _in_turn(state, unit_width)
        alone[here[:, 0], names] = first
        in_turn[here[:, 0], names] = turns
    return alone, in_turn


def _in_turn(state: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Costs alone and in turn, (k, s) each, from B, Z and H, (3, k, s * W, s * W), of units that are all there."""
    sites, units = state.shape[1], state.shape[2] // width
    row = torch.arange(sites, device=state.device)
    left = torch.arange(units, device=state.device).expand(sites, units)  # numbers of those that are left
    turns = state.new_zeros(sites, units)
    first, level = turns, state.new_zeros(sites)
    inside = torch.arange(width, device=state.device)
    for turn in range(units):
        corners = torch.stack([unit_corners(matrix, width) for matrix in state])  # (3, k, s, W, W)
        scale = torch.linalg.inv(corners[0])
        costs = ((scale @ corners[1] @ scale) * corners[2]).sum((2, 3)).clamp(min=0)  # (k, s)
        if not turn:
            first = costs
        chosen = costs.argmin(1)
        level = torch.maximum(level, costs[row, chosen])
        turns[row, left[row, chosen]] = level
        others = torch.arange(units - turn, device=state.device).expand(sites, -1)
        others = others[others != chosen[:, None]].view(sites, -1)  # (k, s - 1)
        if not others.shape[1]:
            break
        gone = (chosen[:, None] * width + inside)[:, None]  # (k, 1, W)
        stays = (others[..., None] * width + inside).flatten(1)  # (k, S')
        down, here = stays[..., None], row[:, None, None]
        factor = -state[0][here, down, gone] @ scale[row, chosen]  # (k, S', W): what is left of T's columns of j
        corner = corners[:, row, chosen]  # (3, k, W, W)
        half = factor @ (state[:, here, down, gone].mT + corner @ factor.mT / 2)  # (3, k, S', S')
        state = state[:, here, down, stays[:, None]] + half + half.mT
        left = left.gather(1, others)
    return first, turns
