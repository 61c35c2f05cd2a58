"""Planners over levels: one elimination a site gives the order and the prices, and what remains is how deep each site goes."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from torch import Tensor

from plasticity_env.common.errors import InputError
from plasticity_env.common.values import LARGEST_COUNT
from plasticity_env.controllers.planners.divergence import Divergence
from plasticity_env.controllers.planners.trials import Planner, Trials
from plasticity_env.strategies.level_choice import Room, knapsack_levels, nearest_levels, threshold_levels
from plasticity_env.strategies.level_table import LevelTable

TOKENS = (2048, 8192, 32768)  # of the text on which children are compared, stage after stage
OFFSPRING, SURVIVORS = 16, (4, 2)  # of a generation, and of its stages but the last
MOST_SWAPS = 3  # of a child
DRAWS = 100  # of a child, before a search takes it that there is none


class LevelPlanner(Planner):
    """Chooses a level for each site, at exactly the most that levels can reach within what is due."""

    def search(self, trials: Trials) -> Tensor:
        table, room = self.levels(trials)
        active = table.mask(self.choose(table, room, trials))
        if not trials.fits(active):
            raise InputError(
                f"{self.name} counts what units cost, and its choice breaks max_sparsity: raise it, or ask for a smaller share"
            )
        return active

    def levels(self, trials: Trials) -> tuple[LevelTable, Room]:
        """The table that is planned on, and what a choice may do."""
        return trials.levels()

    @abstractmethod
    def choose(self, table: LevelTable, room: Room, trials: Trials) -> np.ndarray:
        """(S,) levels."""


class Threshold(LevelPlanner):
    """One threshold for all sites, of what a stretch of levels costs the loss for each FLOP.

    Measured once, nothing is tried out. See `plasticity_env.strategies.level_choice.threshold_levels`.
    """

    name = "threshold"

    def choose(self, table: LevelTable, room: Room, trials: Trials) -> np.ndarray:
        return threshold_levels(table, room)


class LevelKnapsack(LevelPlanner):
    """The choice of levels whose prices sum to the least: an exact knapsack. Measured once, nothing is tried out."""

    name = "dp"

    def choose(self, table: LevelTable, room: Room, trials: Trials) -> np.ndarray:
        return knapsack_levels(table, room)


class Evolution(LevelPlanner):
    """Swaps levels at equal cost, and keeps the child that stays nearest to the dense model (EvoPress, Tyr-the-Pruner).

    Starts at the choice of the knapsack. A child goes a level deeper at one site and comes up one at another, one to three times;
    what it then costs too much or too little is made up by the nearest choice that costs exactly what is due. All children of a
    generation are compared by KL(dense || pruned) on few tokens, those that survive on more, and the last ones, with their
    parent, on all: the best of them is the next parent. The text is drawn from the train split, which nothing else reads;
    where it holds fewer tokens than a stage wants, that stage reads all and is the last.

    Args:
        generations: How many.
        share, seed: As `Planner` takes them.
        tokens: Of each stage, rising.
        offspring: Children of a generation.
        survivors: How many are left after each stage but the last.
    """

    def __init__(
        self,
        generations: int = 8,
        share: float | None = None,
        seed: int = 0,
        *,
        tokens: tuple[int, ...] = TOKENS,
        offspring: int = OFFSPRING,
        survivors: tuple[int, ...] = SURVIVORS,
    ) -> None:
        super().__init__(share, seed)
        if not 0 < generations <= LARGEST_COUNT:
            raise InputError(f"an evolution must have at least 1 generation, got {generations!r}")
        if len(survivors) + 1 != len(tokens) or list(tokens) != sorted(set(tokens)) or min((*tokens, *survivors)) < 1:
            raise InputError(
                f"an evolution wants tokens that rise and survivors of each stage but the last, got {tokens} and {survivors}"
            )
        self.generations, self.tokens, self.offspring, self.survivors = generations, tokens, offspring, survivors
        self.name = f"evolution:{generations}"

    def choose(self, table: LevelTable, room: Room, trials: Trials) -> np.ndarray:
        sizes = [-(-count // trials.block_size) for count in self.tokens]  # blocks, rounded up
        fitness = trials.divergence(sizes[-1], self.seed)
        stages = list(dict.fromkeys(min(size, fitness.blocks) for size in sizes))
        random = np.random.default_rng(self.seed)
        parent = knapsack_levels(table, room)
        tried = {tuple(parent)}
        least = fitness.of(table.mask(parent), stages[-1])
        for _ in range(self.generations):
            children = self._children(parent, table, room, random, tried)
            if not children:
                break
            best, value = self._best(children, table, fitness, stages)
            if value < least:
                parent, least = best, value
        return parent

    def _best(
        self, children: list[np.ndarray], table: LevelTable, fitness: Divergence, stages: list[int]
    ) -> tuple[np.ndarray, float]:
        """The child that is left, and its divergence on all blocks."""
        for blocks, left in zip(stages[:-1], self.survivors, strict=False):
            apart = [fitness.of(table.mask(child), blocks) for child in children]
            children = [children[index] for index in np.argsort(apart, kind="stable")[:left]]
        apart = [fitness.of(table.mask(child), stages[-1]) for child in children]
        first = int(np.argmin(apart))
        return children[first], apart[first]

    def _children(
        self,
        parent: np.ndarray,
        table: LevelTable,
        room: Room,
        random: np.random.Generator,
        tried: set[tuple[int, ...]],
    ) -> list[np.ndarray]:
        """Choices that were not tried before; fewer, where there seem to be no more."""
        children: list[np.ndarray] = []
        for _ in range(self.offspring):
            child = next(
                (c for c in (swapped(parent, table, room, random) for _ in range(DRAWS)) if tuple(c) not in tried), None
            )
            if child is None:
                break
            tried.add(tuple(child))
            children.append(child)
        return children


def swapped(parent: np.ndarray, table: LevelTable, room: Room, random: np.random.Generator) -> np.ndarray:
    """Levels that are one swap or a few away from others and cost exactly as much.

    Args:
        parent: (S,) levels.
        table: Of the model.
        room: What is due, and which levels may be chosen.
        random: Source of the draws; a small number of swaps is the likelier.
    """
    asked = parent.copy()
    for _ in range(int(min(random.integers(1, MOST_SWAPS + 1, 2)))):
        deeper, higher = np.flatnonzero(asked < room.highest), np.flatnonzero(asked > room.lowest)
        pairs = [(down, up) for down in deeper for up in higher if down != up]
        if pairs:
            down, up = pairs[int(random.integers(len(pairs)))]
            asked[down] += 1
            asked[up] -= 1
    return nearest_levels(table, asked, room)
