"""From scores to edits: the lowest-ranked units go, up to the share that is due."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from plasticity_env.common.errors import InputError
from plasticity_env.envs.actions import as_array
from plasticity_env.envs.edits import KEEP, PRUNE, REVIVE
from plasticity_env.envs.episode import EpisodeState
from plasticity_env.envs.task import Task

BOUND = 1.0


def rank_edits(scores: Tensor, state: EpisodeState, task: Task) -> Tensor:
    """The edits that leave the highest-scored units active and prune the share that is due at this decision.

    In adaptive mode every unit stands for choice, so that a pruned one with a high score is revived; in compressed mode
    what is pruned stays so, and the rest of the due share is taken from the active ones.

    Args:
        scores: (L, U), higher = kept longer; of equal ones the first in the order of layers goes first.
        state: State before the decision.
        task: Rules of the task.

    Returns:
        (L, U) integers, 0 keep, 1 prune, 2 revive.
    """
    active, cost = state.active.flatten(), task.unit_costs.flatten()
    candidates = torch.ones_like(active) if task.revives else active
    due = task.due_share(state) * float(cost.sum())
    due = round(due) if task.counts_units else due
    spent = 0.0 if task.revives else float(cost[~active].sum())
    order = scores.flatten().double().masked_fill(~candidates, torch.inf).argsort(stable=True)[: int(candidates.sum())]
    spared = _spared(scores, candidates.view(task.shape), task).flatten()
    order = order[~spared[order]]
    gone = torch.zeros_like(active)
    gone[order[spent + cost[order].cumsum(0) <= due + 1e-9]] = True
    edits = torch.full(active.shape, KEEP, dtype=torch.int64)
    edits[gone & active] = PRUNE
    edits[~gone & ~active & candidates] = REVIVE
    return edits.view(task.shape)


def _spared(scores: Tensor, candidates: Tensor, task: Task) -> Tensor:
    """(L, U) boolean: each layer's highest-scored heads, as many as must stay, so that what is due is taken from the others."""
    least = task.settings.min_heads_per_layer
    spared = torch.zeros(task.shape, dtype=torch.bool)
    if least:
        ranked = scores[:, : task.heads].double().masked_fill(~candidates[:, : task.heads], -torch.inf)
        spared[:, : task.heads].scatter_(1, ranked.topk(least, 1).indices, True)
    return spared


def read_scores(action: Any, shape: tuple[int, ...]) -> Tensor:
    """An action as float64 scores of a shape.

    Raises:
        InputError: Another shape, not numbers, or not finite.
    """
    scores = as_array(action)
    if scores.shape != shape or scores.dtype.kind not in "iuf" or not np.isfinite(scores).all():
        raise InputError(
            f"an action must hold finite scores of shape {shape}, higher = kept longer; got {scores.dtype} of shape "
            f"{scores.shape}"
        )
    return torch.from_numpy(scores.astype(np.float64))
