"""ZipLM's pruning: what a layer's output loses at each level, and a search for how much each layer counts (SPDY).

Kurtic, Frantar and Alistarh 2023, "ZipLM: Inference-Aware Structured Pruning of Language Models" (arXiv 2302.04089); the search
is that of Frantar and Alistarh 2022, "SPDY" (arXiv 2201.13096).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from plasticity_env.common.errors import InputError
from plasticity_env.common.values import LARGEST_COUNT
from plasticity_env.controllers.planners.level_planners import LevelPlanner
from plasticity_env.controllers.planners.trials import Trials
from plasticity_env.strategies.level_choice import Room, knapsack_levels
from plasticity_env.strategies.level_table import LevelTable

SPREAD = 0.1  # share of the coefficients that a candidate draws anew, at first


class ZipLM(LevelPlanner):
    """Levels whose layers' outputs lose least, with a coefficient for each site that is searched for on the loss.

    A site's units go in the order in which its output, refitted, loses least. A level's price is the squared error of the output
    over its squared size, on text that the refit has not read. The knapsack takes the levels of least summed price times the
    sites' coefficients. These are 1 at first; each candidate draws some of them anew from [0, 1), fewer and fewer, and the
    one of least loss on the reward blocks is kept. Costs are FLOPs here, seconds in the paper; nothing is trained in between.

    Args:
        candidates: How many are tried, each an evaluation; 0 takes coefficients of 1, and reads no reward blocks.
        share, seed: As `Planner` takes them.
    """

    def __init__(self, candidates: int = 0, share: float | None = None, seed: int = 0) -> None:
        super().__init__(share, seed)
        if not 0 <= candidates <= LARGEST_COUNT:
            raise InputError(f"the number of candidates must be 0 or more, got {candidates!r}")
        self.candidates = candidates
        self.name = f"ziplm:{candidates}" if candidates else "ziplm"

    def levels(self, trials: Trials) -> tuple[LevelTable, Room]:
        return trials.levels(of_outputs=True)

    def choose(self, table: LevelTable, room: Room, trials: Trials) -> np.ndarray:
        random, sites = np.random.default_rng(self.seed), len(table.sites)
        best = np.ones(sites)
        chosen = knapsack_levels(table, room)
        if not self.candidates:
            return chosen
        least = trials.loss(table.mask(chosen))
        for number in range(self.candidates):
            share = max(SPREAD * (1 - number / self.candidates), 1 / sites)
            drawn = random.random(sites) < share
            drawn[random.integers(sites)] = True
            tried = np.where(drawn, random.random(sites), best)
            levels = knapsack_levels(_weighed(table, tried), room)
            loss = trials.loss(table.mask(levels))
            if loss < least:
                best, chosen, least = tried, levels, loss
        return chosen


def _weighed(table: LevelTable, weights: np.ndarray) -> LevelTable:
    """The same with each site's prices times a weight."""
    sites = tuple(replace(site, prices=site.prices * weight) for site, weight in zip(table.sites, weights, strict=True))
    return replace(table, sites=sites)
