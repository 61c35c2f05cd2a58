"""What units of one layer cost together: backward stepwise elimination under K-FAC.

Scores of single units do not add up. Two heads that say the same are each free to go, for the other one speaks for it, and
expensive together. So units are taken out in turn: the cheapest goes, the others make up for it, and the next one is priced by
what is left (the block elimination of OBS, Hassibi & Stork 1993, which ZipLM, Kurtic et al. 2023, does on a layer's output).
Here the price is that of K-FAC (`plasticity_env.signals.slopes`): tr(E[r r^T] E[h h^T]) of the residual r that the unit has by
now and the loss's gradient h in it, both as they stand after the eliminations before. Without a ridge, on the text
that the repair was fitted on, the prices of the turns add up to what all that went costs jointly; else cross terms between the
turns are left out.

Three matrices hold the state: B = (G_SS + lambda I)^-1 of the units S that are left, Z = B X B with the second moments X of the
text that is scored, and the second moments H of the gradients. Unit u has the residual covariance B_uu^-1 Z_uu B_uu^-1, so

    cost of u = tr(B_uu^-1 Z_uu B_uu^-1 H_uu).

When j goes, all three change by one congruence, M -> T M T^T with T = I + L e_j^T and L = -B_:j B_jj^-1, and lose their rows and
columns of j. Written out,

    M -> M + L N^T + N L^T with N = M_:j + L M_jj / 2, which for B itself is B -> B + L B_j:.

The costs read no more than the units' own corners M_uu, so only these are kept up to date. Row j of today's M is made of the
first one's and of the L and N of the turns t before:

    M_j: = first M_j: + sum_t (N_t)_j L_t^T + (L_t)_j N_t^T, and B_j: = first B_j: + sum_t ((B_t:)_j)^T L_t^T.
"""

from __future__ import annotations

import torch
from torch import Tensor

from plasticity_env.signals.linalg import alike, congruence, unit_corners


def eliminate(inverse: Tensor, moment: Tensor, gradient: Tensor, unit_width: int) -> tuple[Tensor, Tensor]:
    """Price the units of k sites of one shape, each alone and each in its turn.

    Args:
        inverse: (k, I, I) B, float64, as the last turns cancel many digits; rows and columns of pruned units are 0.
        moment: (k, I, I) sums of outer products of the inputs x.
        gradient: (k, I, I) the same of the loss's gradients in x, of which no digits cancel: it stays in its own type.
        unit_width: W, inputs of a unit.

    Returns:
        Two of (k, I / W), float64, 0 for pruned units: tr(sum r r^T sum h h^T) when the unit alone goes, and when it goes in its
        turn, after all that are cheaper; the latter never fall from one turn to the next.
    """
    alone, in_turn, _ = _eliminated(inverse, moment, gradient, unit_width)
    return alone, in_turn


def removal_turns(inverse: Tensor, moment: Tensor, gradient: Tensor, unit_width: int) -> Tensor:
    """(k, I / W) int64: the turn in which `eliminate`, which takes the same, takes each unit out; 0 for pruned ones too."""
    return _eliminated(inverse, moment, gradient, unit_width)[2]


def _eliminated(inverse: Tensor, moment: Tensor, gradient: Tensor, unit_width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Costs alone and in turn, and turns."""
    alone = inverse.new_zeros(len(inverse), inverse.shape[1] // unit_width)
    in_turn, turns = torch.zeros_like(alone), torch.zeros_like(alone, dtype=torch.int64)
    kept = (inverse.diagonal(dim1=1, dim2=2) != 0).cpu()
    for rows, inside, _ in alike(kept):
        if not inside.shape[1]:
            continue
        site, row, column = (
            index.to(inverse.device) for index in (rows[:, None, None], inside[:, :, None], inside[:, None])
        )
        b, x = (matrix[site, row, column].to(inverse.dtype) for matrix in (inverse, moment))
        h = gradient[site, row, column]
        units = (inside[:, ::unit_width] // unit_width).to(inverse.device)  # (k, s) their numbers
        found = _in_turn(b, congruence(b, x), h, unit_width)
        for whole, part in zip((alone, in_turn, turns), found, strict=True):
            whole[site[:, 0], units] = part
    return alone, in_turn, turns


def _in_turn(b: Tensor, z: Tensor, h: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Costs alone and in turn, and turns, (k, s) each, from B, Z and H, (k, s * W, s * W) each, of units that are all there.

    B and Z shrink as units go, so that digits cancel: they are float64. H grows: float32 will do, at half the time.
    """
    sites, size = b.shape[:2]
    units = size // width
    site, offset = torch.arange(sites, device=b.device), torch.arange(width, device=b.device)
    b_uu, z_uu, h_uu = (unit_corners(matrix, width).clone() for matrix in (b, z, h))  # (k, s, W, W) each
    identity = torch.eye(width, dtype=b.dtype, device=b.device)
    l_all, b_all, n_of_z = (torch.empty_like(b) for _ in range(3))  # L^T, B_j: and N^T, turn below turn
    l_of_h, n_of_h = torch.empty_like(h), torch.empty_like(h)
    gone = torch.zeros(sites, units, dtype=torch.bool, device=b.device)
    level, in_turn = b.new_zeros(sites), b.new_zeros(sites, units)
    alone, turns = in_turn, torch.zeros_like(gone, dtype=torch.int64)

    def by_unit(rows: Tensor) -> Tensor:  # (k, W, S) -> (k, s, W, W)
        return rows.view(sites, width, units, width).transpose(1, 2)

    for turn in range(units):
        # Cost of every unit: tr(B_uu^-1 Z_uu B_uu^-1 H_uu).
        b_uu_inverse = torch.linalg.inv(b_uu + identity * gone[..., None, None])  # (k, s, W, W)
        costs = ((b_uu_inverse @ z_uu @ b_uu_inverse) * h_uu.to(b.dtype)).sum((2, 3)).clamp(min=0)  # (k, s)
        if turn == 0:
            alone = costs
        j = costs.masked_fill(gone, torch.inf).argmin(1)  # (k,) the cheapest goes
        level = torch.maximum(level, costs[site, j])
        in_turn[site, j] = level
        gone[site, j], turns[site, j] = True, turn
        if turn == units - 1:
            break
        # L^T = -B_jj^-1 B_j: with B_j: = first B_j: + sum_t ((B_t:)_j)^T L_t^T.
        rows_of_j = j[:, None] * width + offset  # (k, W)
        before, now = slice(0, turn * width), slice(turn * width, (turn + 1) * width)
        at_j = rows_of_j[:, None].expand(-1, turn * width, -1)  # (k, t * W, W)
        l_before = l_all[:, before]  # (k, t * W, S)
        l_j = l_before.gather(2, at_j).mT  # (k, W, t * W)
        b_j = b[site[:, None], rows_of_j].baddbmm_(b_all[:, before].gather(2, at_j).mT, l_before)  # (k, W, S)
        l_now = -b_uu_inverse[site, j] @ b_j  # (k, W, S), -1 in its own columns, so that these become 0
        l_all[:, now], b_all[:, now], l_of_h[:, now] = l_now, b_j, l_now.to(h.dtype)
        # B_uu -> B_uu + L_u B_ju.
        l_u = by_unit(l_now).mT
        b_uu += l_u @ by_unit(b_j)
        for m, m_uu, n_all, l_rows in ((z, z_uu, n_of_z, l_all), (h, h_uu, n_of_h, l_of_h)):
            # N^T = M_j: + M_jj L^T / 2 with M_j: = first M_j: + sum_t (N_t)_j L_t^T + (L_t)_j N_t^T.
            n_before = n_all[:, before]
            n_j = n_before.gather(2, at_j).mT
            n_now = m[site[:, None], rows_of_j].baddbmm_(n_j, l_rows[:, before])  # (k, W, S)
            n_now.baddbmm_(l_j.to(m.dtype), n_before).baddbmm_(m_uu[site, j], l_rows[:, now], alpha=0.5)
            n_all[:, now] = n_now
            # M_uu -> M_uu + L_u N_u^T + N_u L_u^T.
            l_n = l_u.to(m.dtype) @ by_unit(n_now)
            m_uu += l_n + l_n.mT
    return alone, in_turn, turns
