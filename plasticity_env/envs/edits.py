"""Which edits are allowed, one by one and together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from plasticity_env.model.flops import CostTable
from plasticity_env.model.modes import PruningMode

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
        min_flops: FLOPs per token that pruning may not undercut, or None; (n,) for `allowed_edits` of n masks at once.
    """

    mode: PruningMode
    trains: bool
    min_heads_per_layer: int
    max_pruned: int
    min_flops: float | Tensor | None


@dataclass(frozen=True)
class EditMasks:
    """(L, U) boolean masks, True for the heads to edit; disjoint."""

    prune: Tensor
    revive: Tensor
    grow: Tensor


def allowed_edits(active: Tensor, limits: Limits, costs: CostTable) -> Tensor:
    """What may be done to each unit alone, in one mask or in several.

    Args:
        active: (..., L, U) boolean.
        limits: Limits of the environment.
        costs: FLOPs per token.

    Returns:
        (..., L, U, 4) boolean over keep, prune, revive, grow.
    """
    allowed = torch.zeros(*active.shape, len(EDITS), dtype=torch.bool)
    allowed[..., KEEP] = True
    prunable = active & ((~active).sum((-2, -1), keepdim=True) < limits.max_pruned)
    heads = prunable[..., : costs.heads]
    count = active[..., : costs.heads].sum(-1, keepdim=True)
    heads &= (count > limits.min_heads_per_layer) & (count.sum(-2, keepdim=True) > 1)  # a model keeps one head at least
    if limits.min_flops is not None:
        least = torch.as_tensor(limits.min_flops, dtype=torch.float64)[..., None, None]
        prunable &= costs.totals(active)[..., None, None] - costs.marginal(active) >= least
    allowed[..., PRUNE] = prunable
    if limits.mode is PruningMode.ADAPTIVE:
        allowed[..., REVIVE] = ~active
        allowed[..., GROW] = ~active & limits.trains
    return allowed


def resolve(
    active: Tensor,
    edits: Tensor,
    limits: Limits,
    costs: CostTable,
    fisher: Tensor,
    allowed: Tensor | None = None,
    swaps: bool = False,
) -> tuple[EditMasks, int]:
    """Turn a joint choice into edits that break no limit.

    An edit that is not allowed for its unit alone is dropped. Where the rest would break a joint limit, prunes are
    cancelled, the unit with the highest observed Fisher score first.

    Args:
        active: (L, U) boolean.
        edits: (L, U) integers, 0 keep, 1 prune, 2 revive, 3 grow.
        limits: Limits of the environment.
        costs: FLOPs per token.
        fisher: (L, U), as observed.
        allowed: What `allowed_edits` says, where it is known already.
        swaps: Whether prunes are judged beside the units that come back at the same time, and not each alone: of a ranking,
            which at a limit can only exchange units.

    Returns:
        The masks, and how many edits were dropped or cancelled.
    """
    allowed = allowed_edits(active, limits, costs) if allowed is None else allowed
    permitted = allowed.gather(-1, edits[..., None].long())[..., 0]
    if swaps:
        back = permitted & ((edits == REVIVE) | (edits == GROW))
        beside = allowed_edits(active | back, limits, costs)[..., PRUNE]
        permitted = torch.where(edits == PRUNE, beside, permitted)
    invalid = int((~permitted).sum())
    edits = torch.where(permitted, edits, KEEP)
    prune, revive, grow = edits == PRUNE, edits == REVIVE, edits == GROW
    if bool(prune.any()):
        invalid += _spare(active | revive | grow, prune, limits, costs, fisher)
    return EditMasks(prune, revive, grow), invalid


def _spare(active: Tensor, prune: Tensor, limits: Limits, costs: CostTable, fisher: Tensor) -> int:
    """Cancel prunes (in place) until what is left of ``active`` breaks no limit; returns how many."""
    cancelled, order = 0, None
    while True:
        after = active & ~prune
        heads = after[:, : costs.heads].sum(1)
        lacking = heads < limits.min_heads_per_layer
        crowded = int((~after).sum()) > limits.max_pruned
        over = limits.min_flops is not None and costs.total(after) < float(limits.min_flops)
        headless = int(heads.sum()) == 0
        if not (crowded or over or headless or bool(lacking.any())):
            return cancelled
        if order is None:
            order = iter(fisher.flatten().argsort(descending=True, stable=True).tolist())
        for index in order:
            layer, unit = divmod(index, active.shape[1])
            is_head = costs.heads is None or unit < costs.heads
            helps = crowded or over or (is_head and (headless or bool(lacking[layer])))
            if prune[layer, unit] and helps:
                prune[layer, unit] = False
                cancelled += 1
                break
        else:
            return cancelled
