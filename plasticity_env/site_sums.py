"""Running sums over what the output projections of all layers read, and the scores that follow from them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from plasticity_env.errors import InputError
from plasticity_env.layouts import Site
from plasticity_env.repair.statistics import Moments

OBS_RIDGE = 0.01  # of the mean diagonal, as SparseGPT's default


class SiteSums:
    """Sums for one kind of site (all attention outputs, or all MLP outputs) of a model.

    Args:
        sites: One a layer, all of one shape.
        units: Units of each.
        full: Keep the whole second-moment matrix (repair and OBS want it), else only each unit's own block.
        device: Where to sum.
    """

    def __init__(self, sites: Sequence[Site], units: int, full: bool, device: torch.device) -> None:
        self._sites, self._units, self._full = sites, units, full
        self._width = sites[0].unit_width
        layers, inputs = len(sites), units * self._width
        shape = (layers, inputs, inputs) if full else (layers, units, self._width, self._width)
        self._moments = torch.zeros(shape, dtype=torch.float64 if full else torch.float32, device=device)
        self._mean = torch.zeros(layers, inputs if full else 0, dtype=torch.float64, device=device)

    def add(self, layer: int, rows: Tensor) -> None:
        """Add the input rows (tokens, I) of one layer's projection."""
        rows = rows.float()
        if self._full:
            self._moments[layer] += (rows.t() @ rows).double()
            self._mean[layer] += rows.sum(0, dtype=torch.float64)
        else:
            units = rows.unflatten(-1, (self._units, self._width)).transpose(0, 1)  # (U, tokens, W)
            self._moments[layer] += units.transpose(1, 2) @ units

    def moments(self, tokens: int) -> list[Moments]:
        """Second moments and means of each layer, on the CPU; only with ``full``."""
        assert self._full
        pairs = zip(self._moments / tokens, self._mean / tokens, strict=True)
        return [Moments(gram.cpu(), mean.cpu()) for gram, mean in pairs]

    def activation(self, tokens: int) -> Tensor:
        """(L, U) root mean square over tokens of the norm of what each unit writes: sqrt tr(G_uu W_u W_u^T)."""
        w = self._width
        blocks = self._moments
        if self._full:
            corners = [blocks[:, i * w : (i + 1) * w, i * w : (i + 1) * w] for i in range(self._units)]
            blocks = torch.stack(corners, 1).float()
        scores = []
        for block, site in zip(blocks, self._sites, strict=True):  # block (U, W, W)
            rows = site.output_weight().float().view(self._units, w, -1)  # (U, W, E)
            scores.append((block * (rows @ rows.transpose(1, 2))).sum((1, 2)))
        return (torch.stack(scores) / tokens).clamp(min=0).sqrt().cpu()

    def magnitude(self) -> Tensor:
        """(L, U) Frobenius norm of each unit's output rows."""
        norms = [site.output_weight().float().square().sum(1).view(self._units, -1).sum(1) for site in self._sites]
        return torch.stack(norms).sqrt().cpu()

    def obs(self, gates: Tensor, tokens: int) -> Tensor:
        """(L, U) scores of `obs_scores` with X the gated inputs; only with ``full``.

        Args:
            gates: (L, U) of these units.
            tokens: How many rows were added to each layer.
        """
        factor = gates.to(self._moments.device, self._moments.dtype).repeat_interleave(self._width, 1)  # (L, I)
        gram = self._moments / tokens * factor[:, :, None] * factor[:, None, :]
        weights = [site.output_weight() for site in self._sites]
        return obs_scores(gram, weights, factor > 0, self._width).view(-1, self._units)


def obs_scores(gram: Tensor, weights: list[Tensor], kept: Tensor, unit_width: int) -> Tensor:
    """Optimal-brain-surgeon score of removing each unit at once, the kept inputs refitted.

    1/2 tr(W_u^T [(H^-1)_uu]^-1 W_u) with H = X^T X / tokens + ridge (ZipLM, Kurtic et al. 2023).

    Args:
        gram: (L, I, I) second moments of the output projection's input, float64.
        weights: L output projections (I, E).
        kept: (L, I) boolean, the inputs that are still there.
        unit_width: Inputs of one unit.

    Returns:
        (L, U) float32 on the CPU; 0 for units that are gone.
    """
    _, inputs, _ = gram.shape
    diagonal = gram.diagonal(dim1=1, dim2=2)
    live = kept.sum(1).clamp(min=1)
    ridge = OBS_RIDGE * (diagonal * kept).sum(1) / live  # (L,)
    ridge = ridge.clamp(min=1e-12)
    both = kept[:, :, None] & kept[:, None, :]
    hessian = torch.where(both, gram, torch.zeros((), dtype=gram.dtype, device=gram.device))
    hessian = hessian + torch.diag_embed(torch.where(kept, ridge[:, None], torch.ones_like(diagonal)))
    factor, failed = torch.linalg.cholesky_ex(hessian)
    if bool(failed.any()):
        raise InputError("the heads' outputs are not finite or overflow: the model diverged, lower the learning rate")
    inverse = torch.cholesky_inverse(factor)
    units = inputs // unit_width
    corner = torch.stack([inverse[:, s : s + unit_width, s : s + unit_width] for s in range(0, inputs, unit_width)], 1)
    rows = torch.stack([w.to(gram.dtype).view(units, unit_width, -1) for w in weights])  # (L, U, W, E)
    score = 0.5 * (rows * torch.linalg.solve(corner, rows)).sum((2, 3))
    return torch.where(kept[:, ::unit_width], score, 0.0).float().cpu()
