"""A parallel repair as the small thing that it is, without the weights: many of them solved and applied at once.

Least squares gives W_S' = W_S + A W_P with A (S, P), S kept and P pruned inputs: A has at most a quarter of I^2 numbers,
the repaired rows have S * E. Several versions of one model can so share its weights and keep their repairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from plasticity_env.repair.methods import METHODS, RIDGE, unit_factors
from plasticity_env.repair.statistics import Moments
from plasticity_env.variants import Projection


@dataclass(frozen=True)
class Factor:
    """One repair of one site.

    Attributes:
        kept: (I,) boolean.
        mix: (S, P) in the model's type: kept rows gain ``mix @ W_P``; or None.
        rows: (U,) factor on each unit's rows, or None.
        bias: (E,) to add to the bias, or None.
    """

    kept: Tensor
    mix: Tensor | None = None
    rows: Tensor | None = None
    bias: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(t.numel() * t.element_size() for t in (self.kept, self.mix, self.rows, self.bias) if t is not None)


def solve_factors(
    method: str,
    weights: Sequence[Tensor],
    moments: Sequence[Moments],
    kept: Tensor,
    unit_width: int,
    ridge: float = RIDGE,
) -> list[Factor]:
    """Solve k repairs of sites of one shape; each equals that of `METHODS` on the same arguments.

    Args:
        method: Name in `METHODS`.
        weights: k dense projections (I, E).
        moments: k, of their inputs.
        kept: (k, I) boolean, whole units.
        unit_width: Inputs of a unit.
        ridge: lambda as a share of the mean diagonal.

    Raises:
        InputError: Statistics that are not finite.
    """
    for each in moments:
        each.check()
    if method == "least_squares":
        return _mixes(weights[0], moments, kept, ridge)
    found = []
    for weight, each, stay in zip(weights, moments, kept, strict=True):
        moved = Moments(each.gram.to(weight.device), each.mean.to(weight.device))
        here = stay.to(weight.device)
        if method == "scale":
            rows = unit_factors(weight, moved, here, unit_width, ridge) if bool(stay.any()) else torch.ones(1)
            found.append(Factor(stay, rows=rows.to(weight)))
        else:
            found.append(Factor(stay, bias=METHODS[method](weight, moved, here, unit_width, ridge).bias))
    return found


def project(weight: Tensor, factors: Sequence[Factor | None]) -> Projection:
    """Apply n repairs of one site; None leaves the dense projection.

    Args:
        weight: (I, E) dense projection.
        factors: n, all of one method.
    """
    versions, chosen = len(factors), [(i, factor) for i, factor in enumerate(factors) if factor is not None]
    if not chosen:
        return Projection()
    first = chosen[0][1]
    if first.bias is not None:
        bias = weight.new_zeros(versions, weight.shape[1])
        for index, factor in chosen:
            assert factor.bias is not None
            bias[index] = factor.bias
        return Projection(bias=bias)
    repaired = weight.repeat(versions, 1, 1)  # (n, I, E), a copy even of one
    if first.rows is not None:
        for index, factor in chosen:
            assert factor.rows is not None
            repaired[index] *= factor.rows.repeat_interleave(len(weight) // len(factor.rows))[:, None]
        return Projection(weight=repaired)
    kept = torch.stack([factor.kept for _, factor in chosen])
    for rows, inside, outside in alike(kept):
        mixes = torch.stack([chosen[row][1].mix for row in rows.tolist()])  # type: ignore[misc]  # (k, S, P)
        of = torch.tensor([chosen[row][0] for row in rows.tolist()])[:, None]
        repaired[of, inside] += mixes @ weight[outside]
    return Projection(weight=repaired)


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


def _mixes(weight: Tensor, moments: Sequence[Moments], kept: Tensor, ridge: float) -> list[Factor]:
    found: dict[int, Factor] = {}
    for rows, inside, outside in alike(kept):
        gram = torch.stack([moments[row].gram for row in rows.tolist()]).to(weight.device)  # (k, I, I)
        here, inside, outside = torch.arange(len(rows))[:, None, None], inside[:, :, None], outside[:, None]
        system, wanted = gram[here, inside, inside.transpose(1, 2)], gram[here, inside, outside]  # (k, S, S), (k, S, P)
        penalty = ridge * gram.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)
        system.diagonal(dim1=1, dim2=2).add_(penalty[:, None])
        mixes = torch.cholesky_solve(wanted, torch.linalg.cholesky(system)).to(weight.dtype)
        found |= {row: Factor(kept[row], mix=mix.clone()) for row, mix in zip(rows.tolist(), mixes, strict=True)}
    return [found[row] for row in range(len(kept))]
