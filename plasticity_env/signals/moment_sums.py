"""Running sums over what the output projections of all layers read, and the scores that follow from them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from plasticity_env.common.errors import InputError
from plasticity_env.model.layouts import Site
from plasticity_env.signals.linalg import alike, outer_sums, unit_corners
from plasticity_env.signals.moments import Moments

OBS_RIDGE = 0.01  # of the mean diagonal, as SparseGPT's default


class SiteSums:
    """Sums for one kind of site (all attention outputs, or all MLP outputs) of a model, for n groups of sequences.

    Args:
        sites: One a layer, all of one shape.
        units: Units of each.
        full: Keep the whole second-moment matrix (repair and OBS want it), else only each unit's own block.
        device: Device to sum on.
        groups: n; rows are added group after group, equally many of each.
    """

    def __init__(self, sites: Sequence[Site], units: int, full: bool, device: torch.device, groups: int = 1) -> None:
        self.sites, self._units, self._full, self._groups = sites, units, full, groups
        self._width = sites[0].unit_width
        layers, inputs = len(sites), units * self._width
        shape = (inputs, inputs) if full else (units, self._width, self._width)
        dtype = torch.float64 if full else torch.float32
        self._moments = torch.zeros(layers, groups, *shape, dtype=dtype, device=device)
        self._mean = torch.zeros(layers, groups, inputs, dtype=torch.float64, device=device)

    def add(self, layer: int, rows: Tensor) -> None:
        """Add the input rows (tokens, I) of one layer's projection."""
        rows = rows.float()
        if self._full:
            cut = rows.view(self._groups, -1, rows.shape[-1])  # (n, tokens, I)
            self._moments[layer] += outer_sums(cut)
            self._mean[layer] += cut.sum(1, dtype=torch.float64)
        else:
            units = rows.view(self._groups, -1, self._units, self._width).transpose(1, 2)  # (n, U, tokens, W)
            self._moments[layer] += units.transpose(2, 3) @ units
            self._mean[layer] += rows.view(self._groups, -1, rows.shape[-1]).sum(1, dtype=torch.float64)

    def outer(self, layer: int) -> Tensor:
        """(n, I, I) sums of outer products of what one layer's projection read so far; only with ``full``."""
        assert self._full
        return self._moments[layer]

    def moments(self, tokens: int) -> list[Moments]:
        """Second moments (n, I, I) and means (n, I) of each layer; only with ``full``."""
        assert self._full
        return [Moments(gram, mean) for gram, mean in zip(self._moments / tokens, self._mean / tokens, strict=True)]

    def activation(self, tokens: int, weights: Sequence[Tensor]) -> Tensor:
        """(n, L, U) root mean square over tokens of the norm of what each unit writes: sqrt tr(G_uu W_u W_u^T).

        Args:
            tokens: How many rows were added to each layer of a group.
            weights: L projections, (n or 1, I, E) each.
        """
        w = self._width
        scores = []
        for block, weight in zip(self._moments, weights, strict=True):
            if self._full:
                corners = [block[:, i * w : (i + 1) * w, i * w : (i + 1) * w] for i in range(self._units)]
                block = torch.stack(corners, 1).float()  # (n, U, W, W)
            rows = weight.float().unflatten(1, (self._units, w))  # (n or 1, U, W, E)
            scores.append((block * (rows @ rows.transpose(2, 3))).sum((2, 3)))
        return (torch.stack(scores, 1) / tokens).clamp(min=0).sqrt().cpu()

    def fluctuation(self, tokens: int, weights: Sequence[Tensor]) -> Tensor:
        """(n, L, U) sum over a unit's inputs of their variance over tokens times the squared norm of their row (FLAP).

        Args:
            tokens: How many rows were added to each layer of a group.
            weights: L projections, (n or 1, I, E) each.
        """
        squares = self._moments.diagonal(dim1=-2, dim2=-1).flatten(2).double() / tokens  # (L, n, I)
        variance = (squares - (self._mean / tokens).square()).clamp(min=0)
        scores = [
            (of_layer * weight.double().square().sum(2)).unflatten(1, (self._units, -1)).sum(2)
            for of_layer, weight in zip(variance, weights, strict=True)
        ]
        return torch.stack(scores, 1).float().cpu()

    def magnitude(self, weights: Sequence[Tensor]) -> Tensor:
        """(n, L, U) Frobenius norm of each unit's rows of L projections, (n or 1, I, E) each."""
        norms = [weight.float().square().sum(2).unflatten(1, (self._units, -1)).sum(2) for weight in weights]
        return torch.stack([norm.expand(self._groups, -1) for norm in norms], 1).sqrt().cpu()

    def obs(self, gates: Tensor, tokens: int, weights: Sequence[Tensor]) -> Tensor:
        """(n, L, U) scores of `obs_scores` with X the gated inputs; only with ``full``.

        Args:
            gates: (n, L, U) of these units.
            tokens: How many rows were added to each layer of a group.
            weights: L projections, (n or 1, I, E) each.
        """
        factor = gates.to(self._moments.device, self._moments.dtype).repeat_interleave(self._width, 2)  # (n, L, I)
        factor = factor.transpose(0, 1)  # (L, n, I)
        gram = self._moments / tokens * factor[..., :, None] * factor[..., None, :]
        rows = [weight.to(gram.dtype).unflatten(1, (self._units, self._width)) for weight in weights]
        squares = torch.stack([(of @ of.mT).expand(self._groups, -1, -1, -1) for of in rows])  # (L, n, U, W, W)
        return torch.stack([obs_scores(gram[:, n], squares[:, n], factor[:, n] > 0) for n in range(self._groups)])


def obs_scores(gram: Tensor, squares: Tensor, kept: Tensor) -> Tensor:
    """Optimal-brain-surgeon score of removing each unit at once, the kept inputs refitted.

    1/2 tr(W_u^T [(H^-1)_uu]^-1 W_u) with H = X^T X / tokens + ridge (ZipLM, Kurtic et al. 2023).

    Args:
        gram: (n, I, I) second moments of an output projection's input, float64.
        squares: (n, U, W, W) W_u W_u^T of its units, U * W = I.
        kept: (n, I) boolean, the inputs that are still there.

    Returns:
        (n, U) float32 on the CPU; 0 for units that are gone.
    """
    diagonal, unit_width = gram.diagonal(dim1=1, dim2=2), squares.shape[2]
    kept = kept.cpu()
    live = kept.sum(1).clamp(min=1).to(gram.device)
    ridge = (OBS_RIDGE * (diagonal * kept.to(gram.device)).sum(1) / live).clamp(min=1e-12)  # (n,)
    scores = torch.zeros(squares.shape[:2], dtype=gram.dtype, device=gram.device)
    for lot, inside, _ in alike(kept):
        if not inside.shape[1]:
            continue
        hessian = gram[lot[:, None, None], inside[:, :, None], inside[:, None]]  # (k, S, S)
        hessian.diagonal(dim1=1, dim2=2).add_(ridge[lot, None])
        factor, failed = torch.linalg.cholesky_ex(hessian)
        if bool(failed.any()):
            raise InputError(
                "the heads' outputs are not finite or overflow: the model diverged, lower the learning rate"
            )
        units = inside[:, ::unit_width] // unit_width  # (k, u)
        corners = unit_corners(torch.cholesky_inverse(factor), unit_width)
        score = 0.5 * (torch.linalg.inv(corners) * squares[lot[:, None], units]).sum((2, 3))
        scores[lot[:, None], units] = score
    return scores.float().cpu()
