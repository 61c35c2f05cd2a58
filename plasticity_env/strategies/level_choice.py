"""Which levels: exactly so much goes, at the least value; an exact knapsack, and what is built on it.

Sites do not share costs, so that the best choice follows from dynamic programming over the sites: of all choices of the first s
sites that cost c, keep the one of least value. Costs are whole numbers, and all of them multiples of one step, so that a grid of
this step loses nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from plasticity_env.common.errors import InputError
from plasticity_env.strategies.level_table import LevelTable

FROM_HEADLESS = -1  # minus a level: the first site that keeps a head
LARGEST_GRID = 1 << 22  # cells: two bytes of each are kept for every site


@dataclass(frozen=True)
class Room:
    """What a choice of levels may do.

    Attributes:
        due: Most that may go, in the table's costs.
        lowest, highest: (S,) first and last level of each site that may be chosen.
        slack: A choice may cost less than the most that can be reached, by less than this; 0 and 1 allow no other cost.
    """

    due: int
    lowest: np.ndarray
    highest: np.ndarray
    slack: int = 0

    @classmethod
    def within(
        cls,
        table: LevelTable,
        due: float,
        min_heads_per_layer: int = 0,
        lowest: np.ndarray | None = None,
        slack: int = 0,
    ) -> Room:
        """What limits leave.

        Args:
            table: Of the model.
            due: Most that may go, in the table's costs.
            min_heads_per_layer: Fewest heads of a layer that stay.
            lowest: (S,) levels that are reached already and for good.
            slack: As for `Room`.
        """
        highest = table.deepest - np.where(table.holds_heads, min_heads_per_layer, 0)
        return cls(
            min(int(due + 1e-6), table.whole), np.zeros_like(highest) if lowest is None else lowest, highest, slack
        )


def cheapest_levels(table: LevelTable, values: Sequence[np.ndarray], room: Room) -> np.ndarray:
    """The choice of least value among those that cost exactly the most that can be reached within what is due, or nearly so.

    At least one head of the model stays. Of equally good choices the one that a scan from the shallowest level finds first.

    Args:
        table: Sites and their costs.
        values: (U + 1,) of each site, what its levels are worth paying; values of sites add up.
        room: What is due, how nearly, and which levels may be chosen.

    Returns:
        (S,) levels.

    Raises:
        InputError: A grid too fine to be searched, or levels that are reached already and cost more than is due.
    """
    step, cells = table.step, room.due // table.step + 1
    if cells > LARGEST_GRID:
        raise InputError(
            f"the budget of {room.due} has {cells} steps of {step}, too many to search exactly: make max_length a multiple of 64"
        )
    order = np.argsort(~table.holds_heads, kind="stable").tolist()  # sites of heads first
    best = np.full(cells, np.inf)  # by cost, of choices that keep a head
    headless: tuple[int, float] | None = (0, 0.0)  # cost and value of the one choice that has kept no head so far
    choices: list[np.ndarray] = []
    for index in order:
        site, own, heads = table.sites[index], values[index], bool(table.holds_heads[index])
        found, chosen, last = np.full(cells, np.inf), np.zeros(cells, dtype=np.int16), len(site.order)
        for level in range(int(room.lowest[index]), int(room.highest[index]) + 1):
            cost, value = int(site.costs[level]) // step, float(own[level])
            if cost < cells:
                reached = best[: cells - cost] + value
                better = reached < found[cost:]
                np.copyto(found[cost:], reached, where=better)
                np.copyto(chosen[cost:], level, where=better)
            if headless is not None and heads and level < last:
                at = headless[0] + cost
                if at < cells and headless[1] + value < found[at]:
                    found[at], chosen[at] = headless[1] + value, FROM_HEADLESS - level
        if heads:
            whole = int(site.costs[last]) // step
            open_ended = headless is not None and room.highest[index] == last
            headless = (headless[0] + whole, headless[1] + float(own[last])) if open_ended else None  # type: ignore[index]
        best = found
        choices.append(chosen)
    cells_reached = np.flatnonzero(np.isfinite(best))
    if not len(cells_reached):
        raise InputError(f"what is pruned already costs more than the {room.due} that are due")
    allowed = cells_reached[cells_reached > cells_reached[-1] - max(1, room.slack // step)]
    dearest_first = allowed[::-1]
    return _traced(table, order, choices, int(dearest_first[best[dearest_first].argmin()]))


def _traced(table: LevelTable, order: list[int], choices: list[np.ndarray], cell: int) -> np.ndarray:
    """The levels that lead to a cell of the last site's grid, backwards."""
    levels = table.deepest.copy()
    for index, chosen in zip(reversed(order), reversed(choices), strict=True):
        code = int(chosen[cell])
        levels[index] = code if code >= 0 else FROM_HEADLESS - code
        if code < 0:
            break  # the sites before it keep no head
        cell -= int(table.sites[index].costs[code]) // table.step
    return levels


def knapsack_levels(table: LevelTable, room: Room) -> np.ndarray:
    """The choice whose prices sum to the least, at exactly the most that can be reached within what is due."""
    return cheapest_levels(table, [site.prices for site in table.sites], room)


def nearest_levels(table: LevelTable, asked: np.ndarray, room: Room) -> np.ndarray:
    """The choice nearest to levels that are asked for, at exactly the most that can be reached within what is due.

    Nearest is where the costs of sites differ least in sum from those asked for; of equally near ones the one of lower price.

    Args:
        table: Sites and their costs.
        asked: (S,) levels.
        room: What is due, and which levels may be chosen.
    """
    dearest = sum(float(site.prices[-1]) for site in table.sites)
    tie = 0.0 if dearest == 0.0 else 0.5 / dearest  # less than one step in sum
    values = [
        np.abs(site.costs - site.costs[level]) // table.step + tie * site.prices
        for site, level in zip(table.sites, asked, strict=True)
    ]
    return cheapest_levels(table, values, room)


def threshold_levels(table: LevelTable, room: Room) -> np.ndarray:
    """One threshold for all sites: a site goes down as long as what a stretch of levels costs the loss for each FLOP lies below.

    Stretches are those of the lower convex hull of a site's prices over its costs, so that a level whose price is high alone and
    low together with the next one is passed over. The cheapest stretches go, up to the first that does not fit; what is then due
    still, less than this stretch, is made up by the nearest choice that costs exactly as much.
    """
    levels, stretches = room.lowest.copy(), []
    for index, site in enumerate(table.sites):
        level, most = int(room.lowest[index]), int(room.highest[index])
        while level < most:
            further = np.arange(level + 1, most + 1)
            rise = (site.prices[further] - site.prices[level]) / (site.costs[further] - site.costs[level])
            steepest = int(np.flatnonzero(rise == rise.min())[-1])
            stretches.append((float(rise[steepest]), index, int(further[steepest])))
            level = int(further[steepest])
    for _, index, level in sorted(stretches):
        deeper = levels.copy()
        deeper[index] = max(level, deeper[index])
        if table.cost(deeper) > room.due:
            break
        levels = deeper
    return nearest_levels(table, levels, room)
