"""What plasticity/Levels-v0 shows of the levels: a row for every unit, of the level that its removal leads to."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from plasticity_env.envs.observation import Z_BOUND, Bounds
from plasticity_env.strategies.level_choice import Room
from plasticity_env.strategies.level_table import LevelTable

TINY = 1e-20  # where logs begin
LEVEL_COLUMNS: Bounds = {
    "turn": (0, 1),  # place of the unit in its site's order: the last to go has 1
    "saved_share": (0, 1),  # of the dense model's FLOPs, what goes with the unit in its turn
    "log_price": (-16, 16),  # of the site at this level, nats per token
    "price_per_flop_z": (-Z_BOUND, Z_BOUND),  # log of the level's price over the FLOPs that it saves, over all units
}


def with_levels(space: spaces.Space[Any], units: int) -> spaces.Space[Any]:
    """A space of observations with the rows of so many units in it: by name, or flat at the end."""
    low, high = np.array(list(LEVEL_COLUMNS.values()), dtype=np.float32).T
    own = spaces.Box(np.tile(low, (units, 1)), np.tile(high, (units, 1)), dtype=np.float32)
    if isinstance(space, spaces.Dict):
        return spaces.Dict({**space.spaces, "levels": own})
    assert isinstance(space, spaces.Box)
    lowest, highest = (np.concatenate([getattr(box, end).ravel() for box in (space, own)]) for end in ("low", "high"))
    return spaces.Box(lowest, highest, dtype=np.float32)


def level_rows(table: LevelTable, dense_flops: float) -> np.ndarray:
    """(N, 4) float32 rows of all units, in the order of a mask."""
    rows = np.zeros((*table.shape, len(LEVEL_COLUMNS)))
    for site in table.sites:
        count, columns = len(site.order), list(site.order)
        prices, costs = np.maximum(site.prices[1:], TINY), site.costs[1:]
        rows[site.layer, columns, 0] = np.arange(1, count + 1) / count
        rows[site.layer, columns, 1] = np.diff(site.costs) / dense_flops
        rows[site.layer, columns, 2] = np.log(prices)
        rows[site.layer, columns, 3] = np.log(prices / costs)
    of_flops = rows[..., 3]
    rows[..., 3] = (of_flops - of_flops.mean()) / (of_flops.std() + 1e-6)
    low, high = np.array(list(LEVEL_COLUMNS.values())).T
    return np.clip(rows, low, high).reshape(-1, len(LEVEL_COLUMNS)).astype(np.float32)


def score_mask(table: LevelTable, room: Room) -> np.ndarray:
    """(N,) int8, 1 where a unit may be pruned or kept, so that its score counts."""
    mask = np.zeros(table.shape, dtype=np.int8)
    for site, low, high in zip(table.sites, room.lowest, room.highest, strict=True):
        mask[site.layer, list(site.order[low:high])] = 1
    return mask.reshape(-1)


def level_mask(table: LevelTable, room: Room) -> np.ndarray:
    """(sum of U + 1 over the sites,) int8, 1 for the levels that may be chosen, site after site."""
    parts = [
        (np.arange(deepest + 1) >= low) & (np.arange(deepest + 1) <= high)
        for deepest, low, high in zip(table.deepest, room.lowest, room.highest, strict=True)
    ]
    return np.concatenate(parts).astype(np.int8)
