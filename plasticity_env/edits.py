"""Which edits are allowed, one by one and together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from plasticity_env.flops import CostTable
from plasticity_env.model import PruningMode

KEEP, PRUNE, REVIVE, GROW = range(4)
EDITS = ("keep", "prune", "revive", "grow")


@dataclass(frozen=True)
class Limits:
    """What no sequence of edits may break.

    Attributes:
        mode: COMPRESSED allows no revive and no grow.
        trains: Whether the model learns between decisions; without training a grown head could never warm up.
        min_heads_per_layer: Fewest active heads of a layer.
        max_pruned: Most pruned units of the model.
        min_flops: FLOPs per token that pruning may not undercut, or None.
    """

    mode: PruningMode
    trains: bool
    min_heads_per_layer: int
    max_pruned: int
    min_flops: float | None


@dataclass(frozen=True)
class EditMasks:
    """(L, U) boolean masks, True for the heads to edit; disjoint."""

    prune: Tensor
    revive: Tensor
    grow: Tensor


def allowed_edits(active: Tensor, limits: Limits, costs: CostTable) -> Tensor:
    """What may be done to each head alone.

    Args:
        active: (L, U) boolean.
        limits: The environment's.
        costs: FLOPs per token.

    Returns:
        (L, U, 4) boolean over keep, prune, revive, grow.
    """
    allowed = torch.zeros(*active.shape, len(EDITS), dtype=torch.bool)
    allowed[..., KEEP] = True
    pruned = int((~active).sum())
    if pruned < limits.max_pruned:
        prunable = active.clone()
        heads = prunable[:, : costs.heads]
        heads &= heads.sum(1, keepdim=True) > limits.min_heads_per_layer
        if limits.min_flops is not None:
            prunable &= costs.total(active) - costs.marginal(active) >= limits.min_flops
        allowed[..., PRUNE] = prunable
    if limits.mode is PruningMode.ADAPTIVE:
        allowed[..., REVIVE] = ~active
        allowed[..., GROW] = ~active & limits.trains
    return allowed


def resolve(active: Tensor, edits: Tensor, limits: Limits, costs: CostTable, fisher: Tensor) -> tuple[EditMasks, int]:
    """Turn a joint choice into edits that break no limit.

    An edit that is not allowed for its head alone is dropped. Where the rest would break a joint limit, prunes are
    cancelled, the head with the highest observed Fisher score first.

    Args:
        active: (L, U) boolean.
        edits: (L, U) integers, 0 keep, 1 prune, 2 revive, 3 grow.
        limits: The environment's.
        costs: FLOPs per token.
        fisher: (L, U), as observed.

    Returns:
        The masks, and how many edits were dropped or cancelled.
    """
    allowed = allowed_edits(active, limits, costs)
    permitted = allowed.gather(-1, edits[..., None].long())[..., 0]
    invalid = int((~permitted).sum())
    edits = torch.where(permitted, edits, KEEP)
    prune, revive, grow = edits == PRUNE, edits == REVIVE, edits == GROW
    for index in fisher.flatten().argsort(descending=True, stable=True).tolist():
        after = (active & ~prune) | revive | grow
        layers = after[:, : costs.heads].sum(1) < limits.min_heads_per_layer
        crowded = int((~after).sum()) > limits.max_pruned
        over = limits.min_flops is not None and costs.total(after) < limits.min_flops
        if not (bool(layers.any()) or crowded or over):
            break
        layer, unit = divmod(index, active.shape[1])
        lacking = bool(layers[layer]) and (costs.heads is None or unit < costs.heads)
        if prune[layer, unit] and (crowded or over or lacking):
            prune[layer, unit] = False
            invalid += 1
    return EditMasks(prune, revive, grow), invalid
