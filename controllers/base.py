"""What every controller is: observation in, action out. Nothing here knows a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from plasticity_env.common.errors import InputError, check_least
from plasticity_env.common.values import check_number, plain_value
from plasticity_env.envs.edits import GROW, KEEP, PRUNE, REVIVE
from plasticity_env.envs.observation import Observation, global_value, head_column, kind_of

Action = np.ndarray | int


class Controller(ABC):
    """Decides from observations alone, on models of any size and on both environments.

    Attributes:
        name: What it is called in tables.
        signals: Registered signals that it reads beside the columns of every environment; the commands and the leaderboard
            make the environment with them.
        reasons: Why the last decision edits a unit, a sentence by its flat number; empty where the controller gives none.
        details: What else there is to tell of the last decision, JSON-able.
    """

    name: str = "controller"
    signals: tuple[str, ...] = ()
    reasons: Mapping[int, str] = MappingProxyType({})
    details: Mapping[str, Any] = MappingProxyType({})

    def reset(self, seed: int | None = None) -> None:
        """Forget the last episode; ``seed`` feeds the controller's own randomness."""
        self.random = np.random.default_rng(seed)

    @abstractmethod
    def act(self, observation: Observation) -> Action:
        """Choose the action: (N,) integers for Heads, one integer for HeadEdit."""


def wants_scores(observation: Observation) -> bool:
    """Whether an action is a score for every unit, as on HeadRank and Levels.

    Raises:
        InputError: Levels with actions that are levels.
    """
    kind = kind_of(observation)
    if kind == "levels" and len(observation["action_mask"]) != len(observation["heads"]):
        raise InputError("controllers give Levels scores: make the environment with action='scores'")
    return kind in ("head_rank", "levels")


def allowed_edits(observation: Observation) -> np.ndarray:
    """(N, 4) boolean over keep, prune, revive, grow, from the action mask of any environment."""
    mask, kind = observation["action_mask"].astype(bool), kind_of(observation)
    if kind == "heads":
        return mask
    heads = len(observation["heads"])
    if wants_scores(observation):
        active = head_column(observation, "active") > 0.5
        return np.stack([np.ones(heads, dtype=bool), mask & active, mask & ~active, np.zeros(heads, dtype=bool)], 1)
    edits = mask[1:].reshape(3, heads).T  # (N, 3)
    return np.concatenate([np.ones((heads, 1), dtype=bool), edits], 1)


def sample_mask(observation: Observation) -> tuple[np.ndarray, ...] | np.ndarray:
    """The observation's mask as ``action_space.sample(mask=...)`` wants it: a tuple per head or site, or one flat array."""
    mask, kind = observation["action_mask"].astype(np.int8), kind_of(observation)
    if kind == "levels" and len(mask) != len(observation["heads"]):
        ends = head_column(observation, "depth"), head_column(observation, "is_mlp")
        changes = np.flatnonzero(np.diff(ends[0]) + np.abs(np.diff(ends[1]))) + 1  # where the next site begins
        return tuple(np.split(mask, changes + np.arange(1, len(changes) + 1)))
    return tuple(mask) if kind == "heads" else mask


def flat_mask(observation: Observation) -> np.ndarray:
    """The observation's mask as sb3-contrib wants it: one flat boolean array."""
    return observation["action_mask"].astype(bool).reshape(-1)


def as_action(observation: Observation, edits: np.ndarray, urgency: np.ndarray) -> Action:
    """Put edits of all heads into the form that the environment takes.

    Args:
        observation: Says the kind of environment, and what it allows.
        edits: (N,) 0 keep, 1 prune, 2 revive, 3 grow; what is not allowed becomes keep.
        urgency: (N,) on HeadEdit the most urgent edit is made; no edit at all means stop. On HeadRank, where the environment
            says how many go, heads with the edit prune (and pruned ones without an edit) score below all others, the most
            urgent lowest.
    """
    heads = len(edits)
    if wants_scores(observation):
        active = head_column(observation, "active") > 0.5
        gone = np.where(active, edits == PRUNE, ~np.isin(edits, (REVIVE, GROW)))
        return as_scores(-urgency - np.where(gone, 2 * np.ptp(urgency) + 1.0, 0.0), active | ~gone)
    allowed = allowed_edits(observation)[np.arange(heads), edits]
    edits = np.where(allowed, edits, KEEP)
    if kind_of(observation) == "heads":
        return edits.astype(np.int64)
    if (edits == KEEP).all():
        return 0
    head = int(np.argmax(np.where(edits == KEEP, -np.inf, urgency)))
    return 1 + (int(edits[head]) - 1) * heads + head


def as_scores(importance: np.ndarray, ranked: np.ndarray) -> np.ndarray:
    """(N,) float32 scores in [-1, 1] in the order of ``importance``; units that are not ``ranked`` come below all others."""
    order = np.lexsort((np.arange(len(importance)), importance, ranked))
    scores = np.empty(len(importance), dtype=np.float32)
    scores[order] = np.linspace(-1.0, 1.0, len(importance), dtype=np.float32)
    return scores


class KeepAll(Controller):
    """Touches nothing: the dense model."""

    name = "keep_all"

    def act(self, observation: Observation) -> Action:
        heads = len(observation["heads"])
        return as_action(observation, np.full(heads, KEEP), np.zeros(heads))


class ConstantEdit(Controller):
    """Asks the same edit of every head, always: the floor that any controller must beat."""

    def __init__(self, edit: str = "prune") -> None:
        edits = {"keep": KEEP, "prune": PRUNE, "revive": REVIVE, "grow": GROW}
        if edit not in edits:
            raise InputError(f"unknown edit {edit!r}: use keep, prune, revive or grow")
        self.name = f"always_{edit}"
        self._edit = edits[edit]

    def act(self, observation: Observation) -> Action:
        heads = len(observation["heads"])
        return as_action(observation, np.full(heads, self._edit), np.zeros(heads))


class RankedController(Controller):
    """Prunes the least important units until a share of them is gone.

    Where MLP blocks are units too, a unit counts by what it costs: importance is taken per FLOP, and the share is one of
    the units' FLOPs. On HeadRank, which has a target and rounds of its own, the importance is the score.

    Args:
        sparsity: Share of all heads (of all units' FLOPs where MLP blocks are units) to prune, in [0, 1).
        rounds: Decisions over which the pruning is spread evenly; each round ranks by what is then observed.
    """

    per_flop = True  # whether importance is divided by what a unit costs, where costs differ

    def __init__(self, sparsity: float = 0.3, rounds: int = 1) -> None:
        self.sparsity = check_number("sparsity", plain_value(sparsity), 0, 1, below=True)
        self.rounds = int(check_least("rounds", rounds, 1))

    @abstractmethod
    def importance(self, observation: Observation) -> np.ndarray:
        """(N,) positive, larger = pruned later; entries of pruned units are not read."""

    def act(self, observation: Observation) -> Action:
        active = head_column(observation, "active") > 0.5
        importance = self.importance(observation)
        cost = np.ones(len(active))
        if (head_column(observation, "is_mlp") > 0).any():
            cost = head_column(observation, "flop_share").astype(np.float64)
            importance = importance / cost if self.per_flop else importance
        if wants_scores(observation):
            return as_scores(importance, active)  # what is pruned stays so
        edits = np.full(len(active), KEEP)
        wanted = self._due(observation, cost) - cost[~active].sum()
        prunable = active & allowed_edits(observation)[:, PRUNE]
        order = np.argsort(np.where(prunable, importance, np.inf), kind="stable")[: int(prunable.sum())]
        spent = cost[order].cumsum()
        edits[order[spent <= wanted + 1e-9]] = PRUNE
        return as_action(observation, edits, -importance)

    def _due(self, observation: Observation, cost: np.ndarray) -> float:
        """What should be gone after this decision, in units of ``cost``; whole heads where all cost the same."""
        total = self.sparsity * cost.sum()
        if kind_of(observation) != "head_edit":  # else one unit a step: the ranking is fresh each time
            taken = round(global_value(observation, "horizon") - global_value(observation, "steps_left"))
            total = (round(total) if (cost == 1).all() else total) * min(1.0, (taken + 1) / self.rounds)
        return round(total) if (cost == 1).all() else total
