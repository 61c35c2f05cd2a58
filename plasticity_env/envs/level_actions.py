"""From an action of plasticity/Levels-v0 to levels that cost exactly what is due."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from plasticity_env.common.errors import InputError
from plasticity_env.envs.actions import whole_numbers
from plasticity_env.envs.edits import KEEP, PRUNE, REVIVE
from plasticity_env.envs.ranking import BOUND, read_scores
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.strategies.level_choice import Room, cheapest_levels, nearest_levels
from plasticity_env.strategies.level_table import LevelTable


def site_depths(model: PlasticModel) -> np.ndarray:
    """(S,) units of each site of a model, layer by layer, the heads of each first."""
    kinds = [model.heads, model.mlp_blocks] if model.mlp_blocks else [model.heads]
    return np.tile(kinds, model.shape[0])


def level_space(kind: str, depths: np.ndarray) -> gym.spaces.Space[Any]:
    """Action space: scores of all units, or a level of each site."""
    if kind == "scores":
        return gym.spaces.Box(-BOUND, BOUND, (int(depths.sum()),), dtype=np.float32)
    return gym.spaces.MultiDiscrete(depths + 1)


def chosen_levels(kind: str, action: Any, table: LevelTable, room: Room) -> np.ndarray:
    """(S,) levels that an action leads to.

    Args:
        kind: scores or levels.
        action: (N,) numbers, or (S,) whole numbers.
        table: Of the episode.
        room: What is due now.

    Raises:
        InputError: An action of another shape or type, or a level that a site does not have.
    """
    if kind == "scores":
        return scored_levels(table, read_scores(action, (table.shape[0] * table.shape[1],)), room)
    deepest = table.deepest
    asked = whole_numbers(action, deepest.shape, int(deepest.max()), "levels, one a site")
    if (asked > deepest).any():
        site = int(np.flatnonzero(asked > deepest)[0])
        raise InputError(f"site {site} has levels 0 to {deepest[site]}, got {asked[site]}")
    return nearest_levels(table, asked, room)


def scored_levels(table: LevelTable, scores: Tensor, room: Room) -> np.ndarray:
    """The levels at which the units that go have the least sum of score times FLOPs.

    Args:
        table: Of the episode.
        scores: (N,) float64 of all units, higher = kept longer.
        room: What is due now.
    """
    of_units = scores.view(table.shape).numpy()
    values = []
    for site in table.sites:
        steps = of_units[site.layer, list(site.order)] * np.diff(site.costs) / table.whole
        values.append(np.concatenate([[0.0], steps.cumsum()]))
    return cheapest_levels(table, values, room)


def edits_to(active: Tensor, wanted: Tensor) -> Tensor:
    """(L, U) edits that lead from a mask to another one."""
    edits = torch.full(active.shape, KEEP, dtype=torch.int64)
    edits[active & ~wanted], edits[~active & wanted] = PRUNE, REVIVE
    return edits
