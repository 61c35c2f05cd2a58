"""Masked second-moment matrices, many at once: which can be solved in one call, and the blocks of their units."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

HALVED = 384  # columns of a block of a symmetric product: below two of them the whole is as fast
RIDGE = 0.01  # lambda of repairs and residuals, as a share of the mean diagonal of the second moments


def alike(kept: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Sort masks by how many inputs they keep, so that each lot can be solved in one call.

    Args:
        kept: (n, I) boolean, on the CPU.

    Yields:
        Numbers (k,) of the masks that keep S inputs, and those inputs (k, S) and the others (k, P).
    """
    counts = kept.sum(1)
    order = kept.int().argsort(dim=1, descending=True, stable=True)  # kept inputs first, both in their order
    for count in counts.unique().tolist():
        rows = (counts == count).nonzero()[:, 0]
        yield rows, order[rows, :count], order[rows, count:]


def ridge_inverse(gram: Tensor, ridge: float = RIDGE) -> Tensor:
    """(n, I, I) (G + lambda I)^-1 of (n, I, I) second moments, lambda = ridge * mean(diag G)."""
    system = gram.clone()
    penalty = ridge * gram.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)  # (n,)
    system.diagonal(dim1=1, dim2=2).add_(penalty[:, None])
    return torch.cholesky_inverse(torch.linalg.cholesky(system))


def unit_corners(matrices: Tensor, unit_width: int) -> Tensor:
    """Diagonal blocks of k matrices, one a unit: (k, u, W, W) from (k, u * W, u * W)."""
    units = matrices.shape[1] // unit_width
    cut = matrices.unflatten(2, (units, unit_width)).unflatten(1, (units, unit_width))  # (k, u, W, u, W)
    return cut.diagonal(dim1=1, dim2=3).movedim(-1, 1)


def outer_sums(rows: Tensor) -> Tensor:
    """(n, I, I) sums of the outer products of (n, tokens, I) rows; of wide ones only one half is computed."""
    return _symmetric(rows.mT, rows)


def congruence(inverse: Tensor, moment: Tensor) -> Tensor:
    """(n, I, I) B X B of symmetric B and X, of which only one half is computed where they are wide."""
    return _symmetric(inverse, moment @ inverse)


def _symmetric(left: Tensor, right: Tensor) -> Tensor:
    """``left @ right``, known to be symmetric: blocks on and above the diagonal, and their mirror."""
    size = left.shape[-2]
    if size < 2 * HALVED:
        return left @ right
    found = torch.empty(*left.shape[:-1], size, dtype=left.dtype, device=left.device)
    for start in range(0, size, HALVED):
        rows, rest = slice(start, start + HALVED), slice(start + HALVED, size)
        found[..., rows, start:] = left[..., rows, :] @ right[..., start:]
        found[..., rest, rows] = found[..., rows, rest].mT
    return found
