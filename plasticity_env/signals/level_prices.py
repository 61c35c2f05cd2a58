"""What a site costs at each of its levels: its first k units, in a given order, gone together with their repair.

Prices of turns (`plasticity_env.signals.stepwise`) leave out how residuals of different turns go together, which matters on text
that the repair was not fitted on. Here a level is priced as a whole. Let Q take a site's input x to what the repaired projection
makes of it, x -> x Q: rows of kept inputs predict the others' columns, rows of pruned ones are 0. The change is x D with
D = I - Q, and under K-FAC

    price of the level = tr(D^T X D H)

with the second moments X of x and H of the loss's gradient in x, both of the text that prices. When unit j goes, with
B = (G_SS + lambda I)^-1 of the units that were left and L = -B_:j B_jj^-1,

    Q -> Q + L Q_j:, D -> D - L Q_j:, B -> B + L B_j:,

so that one elimination passes through all levels, and each turn adds

    tr(Q_j:^T L^T X L Q_j: H) - 2 tr(Q_j:^T L^T X D H).
"""

from __future__ import annotations

import torch
from torch import Tensor


def level_prices(inverse: Tensor, moment: Tensor, gradient: Tensor, order: Tensor, unit_width: int) -> Tensor:
    """Price every level of k sites of one shape, all units of which are there.

    Args:
        inverse: (k, I, I) B of all units, float64, of the text that the repair is fitted on.
        moment: (k, I, I) X of the text that prices.
        gradient: (k, I, I) H of the same.
        order: (k, U) numbers of the units in the order in which they go, U * W = I.
        unit_width: W, inputs of a unit.

    Returns:
        (k, U + 1) float64: tr(D^T X D H) when the first 0, 1, ..., U units of the order are gone.
    """
    b, x, h = inverse.clone(), moment.to(inverse.dtype), gradient.to(inverse.dtype)
    q = torch.eye(b.shape[1], dtype=b.dtype, device=b.device).expand_as(b).clone()
    x_d = torch.zeros_like(b)  # X D
    site, offset = torch.arange(len(b), device=b.device)[:, None], torch.arange(unit_width, device=b.device)
    prices = b.new_zeros(len(b), order.shape[1] + 1)
    for turn in range(order.shape[1]):
        rows = order[:, turn, None].to(b.device) * unit_width + offset  # (k, W)
        b_j, q_j = b[site, rows], q[site, rows]  # (k, W, I)
        corner = b_j.gather(2, rows[:, None].expand(-1, unit_width, -1))  # (k, W, W)
        left = -torch.linalg.solve(corner, b_j).mT  # (k, I, W), -1 in its own rows, so that these become 0
        x_l, q_h = x @ left, q_j @ h
        alone = ((left.mT @ x_l) * (q_h @ q_j.mT)).sum((1, 2))
        across = ((left.mT @ x_d) * q_h).sum((1, 2))
        prices[:, turn + 1] = prices[:, turn] + alone - 2 * across
        q += left @ q_j
        x_d -= x_l @ q_j
        b += left @ b_j
    return prices
