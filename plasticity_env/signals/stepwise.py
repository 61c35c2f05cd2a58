"""What units of one layer cost together: backward stepwise elimination under K-FAC.

Scores of single units do not add up. Two heads that say the same are each free to go, for the other one speaks for it, and dear
together. So units are taken out one after another: the cheapest goes, the others make up for it, and the next one is priced by
what is left (the block elimination of OBS, Hassibi & Stork 1993, which ZipLM, Kurtic et al. 2023, does on a layer's output).
Here the price is that of K-FAC (`plasticity_env.signals.slopes`): tr(E[r r^T] E[h h^T]) of the residual r that the unit has by
now and the loss's gradient h in it, both as they stand after the eliminations before. Without a ridge, on the text
that the repair was fitted on, the prices of the turns add up to what all that went costs jointly; else cross terms between the
turns are left out.

Three matrices hold the state: B = (G_SS + lambda I)^-1 of the units S that are left, Z = B X B with the second moments X of the
text that is scored, and the second moments H of the gradients. Unit u has the residual covariance B_uu^-1 Z_uu B_uu^-1. When j
goes, all three change by one congruence, M -> T M T^T with T = I - B_:j B_jj^-1 e_j^T, and lose their rows and columns of j.
"""

from __future__ import annotations

import torch
from torch import Tensor

from plasticity_env.signals.linalg import alike, unit_corners


def eliminate(inverse: Tensor, moment: Tensor, gradient: Tensor, unit_width: int) -> tuple[Tensor, Tensor]:
    """Price the units of k sites of one shape, each alone and each in its turn.

    Args:
        inverse: (k, I, I) B, float64, as the last turns cancel many digits; rows and columns of pruned units are 0.
        moment: (k, I, I) sums of outer products of the inputs x.
        gradient: (k, I, I) the same of the loss's gradients in x.
        unit_width: W, inputs of a unit.

    Returns:
        Two of (k, I / W), float64, 0 for pruned units: tr(sum r r^T sum h h^T) when the unit alone goes, and when it goes in its
        turn, after all that are cheaper; the latter never fall from one turn to the next.
    """
    alone = inverse.new_zeros(len(inverse), inverse.shape[1] // unit_width)
    in_turn = torch.zeros_like(alone)
    kept = (inverse.diagonal(dim1=1, dim2=2) != 0).cpu()
    for rows, inside, _ in alike(kept):
        if not inside.shape[1]:
            continue
        here, down, across = (
            index.to(inverse.device) for index in (rows[:, None, None], inside[:, :, None], inside[:, None])
        )
        solver, inputs, slopes = (
            matrix[here, down, across].to(inverse.dtype) for matrix in (inverse, moment, gradient)
        )
        names = (inside[:, ::unit_width] // unit_width).to(inverse.device)  # (k, s)
        first, turns = _in_turn(solver, solver @ inputs @ solver, slopes, unit_width)
        alone[here[:, 0], names] = first
        in_turn[here[:, 0], names] = turns
    return alone, in_turn


def _in_turn(solver: Tensor, seen: Tensor, gradient: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Costs alone and in turn, (k, s) each, from B, Z and H, (k, s * W, s * W) each, of units that are all there.

    M -> T M T^T adds L N^T + N L^T to M, L = -B_:j B_jj^-1 and N = M_:j + L M_jj / 2, so a column of today's M is made of the
    first one's and of the L and N of the turns before; of the rest no more than the units' own corners is kept up to date.
    """
    sites, size = solver.shape[:2]
    units = size // width
    row, inside = torch.arange(sites, device=solver.device), torch.arange(width, device=solver.device)
    corners = [unit_corners(matrix, width).clone() for matrix in (solver, seen, gradient)]  # (k, s, W, W) each
    away = torch.zeros(sites, units, dtype=torch.bool, device=solver.device)
    identity = torch.eye(width, dtype=solver.dtype, device=solver.device)
    down = torch.empty_like(solver)  # the transposed L of all turns, one below the other
    rows, *others = (torch.empty_like(solver) for _ in range(3))  # the same of B_j:, and of the N of Z and H
    first = turns = solver.new_zeros(sites, units)
    level = solver.new_zeros(sites)
    for turn in range(units):
        scale = torch.linalg.inv(corners[0] + identity * away[..., None, None])
        costs = ((scale @ corners[1] @ scale) * corners[2]).sum((2, 3)).clamp(min=0)  # (k, s)
        if not turn:
            first, turns = costs, torch.zeros_like(costs)
        chosen = costs.masked_fill(away, torch.inf).argmin(1)
        level = torch.maximum(level, costs[row, chosen])
        turns[row, chosen] = level
        away[row, chosen] = True
        if turn == units - 1:
            break
        mine = chosen[:, None] * width + inside  # (k, W)
        past, now = slice(0, turn * width), slice(turn * width, (turn + 1) * width)
        of_mine = mine[:, None].expand(-1, turn * width, -1)
        before = down[:, past]
        factor = before.gather(2, of_mine).mT
        across = solver[row[:, None], mine].baddbmm_(rows[:, past].gather(2, of_mine).mT, before)  # (k, W, S)
        step = -scale[row, chosen] @ across  # -1 in its own columns, so that these become 0
        down[:, now], rows[:, now] = step, across
        cut, changed = (each.view(sites, width, units, width).transpose(1, 2) for each in (step, across))
        corners[0] += cut.mT @ changed
        for matrix, halves, corner in zip((seen, gradient), others, corners[1:], strict=True):
            kept = halves[:, past]
            half = matrix[row[:, None], mine].baddbmm_(kept.gather(2, of_mine).mT, before).baddbmm_(factor, kept)
            half.baddbmm_(corner[row, chosen], step, alpha=0.5)
            halves[:, now] = half
            change = cut.mT @ half.view(sites, width, units, width).transpose(1, 2)
            corner += change + change.mT
    return first, turns
