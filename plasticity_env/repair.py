"""Repair: let the heads that stay make up for those that go, without training.

Every method is one pure function from (weights, statistics, mask) to weights. Statistics are second moments G and means
of the output projection's input X, gathered on calibration text by `plasticity_env.measure(..., statistics=True)`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from plasticity_env.errors import InputError, unknown
from plasticity_env.model import PlasticModel

REPAIRS = ("none", "bias", "least_squares")
RIDGE = 0.01  # lambda as a share of the mean diagonal of G


def check_repair(name: str) -> str:
    """Return the name of a repair method.

    Raises:
        InputError: No such method.
    """
    if name not in REPAIRS:
        raise unknown("repair", name, REPAIRS)
    return name


def least_squares(weight: Tensor, gram: Tensor, kept: Tensor, ridge: float = RIDGE) -> Tensor:
    """Output projection of the kept inputs that best reproduces the dense output: ridge regression around the old rows.

    W_S' = (G_SS + lambda I)^-1 (G_S: W + lambda W_S), lambda = ridge * mean(diag G), the closed form of
    min ||X_S W_S' - X W||^2 + lambda ||W_S' - W_S||^2.

    Args:
        weight: (H*D, E) dense projection.
        gram: (H*D, H*D) float64 second moments of its input.
        kept: (H*D,) boolean, True for inputs that stay.
        ridge: lambda as a share of the mean diagonal of G.

    Returns:
        (H*D, E): repaired kept rows; rows of pruned inputs as they were.

    Raises:
        InputError: Statistics that are not finite.
    """
    if not bool(torch.isfinite(gram).all()):
        raise InputError("repair statistics are not finite: check the calibration text and the model's precision")
    repaired = weight.clone()
    if bool(kept.all()) or not bool(kept.any()):
        return repaired
    dense = weight.to(gram.dtype)
    penalty = ridge * gram.diagonal().mean().clamp(min=1e-12)
    rows = gram[kept]  # (S, H*D)
    system = rows[:, kept] + penalty * torch.eye(int(kept.sum()), dtype=gram.dtype, device=gram.device)
    solved = torch.cholesky_solve(rows @ dense + penalty * dense[kept], torch.linalg.cholesky(system))
    repaired[kept] = solved.to(weight.dtype)
    return repaired


def pruned_bias(weight: Tensor, mean: Tensor, kept: Tensor) -> Tensor:
    """Mean output of the pruned heads, (E,): what a bias can make up for.

    Args:
        weight: (H*D, E) dense projection.
        mean: (H*D,) float64 mean of its input.
        kept: (H*D,) boolean.
    """
    return ((mean * ~kept) @ weight.to(mean.dtype)).to(weight.dtype)


def repair_layers(model: PlasticModel, method: str, gram: Tensor, mean: Tensor, layers: list[int]) -> None:
    """Repair some layers of a model for its present mask, from statistics of the dense stream (parallel mode).

    Args:
        model: Its active mask is what is repaired for; the layers must not hold a repair already.
        method: One of `REPAIRS`.
        gram: (L, H*D, H*D) float64.
        mean: (L, H*D) float64.
        layers: Which layers; layers with all heads active are left as they are.
    """
    active = model.active
    for layer in layers:
        if bool(active[layer].all()) or method == "none":
            continue
        weight = model.blocks[layer].output_weight()
        kept = active[layer].repeat_interleave(model.blocks[layer].head_dim).to(weight.device)
        if method == "bias":
            model.apply_repair(layer, None, pruned_bias(weight, mean[layer].to(weight.device), kept))
        else:
            model.apply_repair(layer, least_squares(weight, gram[layer].to(weight.device), kept), None)
