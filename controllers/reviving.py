"""A score in the loop: pruned heads stand for choice beside the active ones, so that the worst of all go and others return."""

from __future__ import annotations

from typing import Literal

import numpy as np

from plasticity_env.common.errors import InputError, unknown
from plasticity_env.controllers.base import Action, RankedController, as_action, as_scores, wants_scores
from plasticity_env.controllers.score_controller import units_of
from plasticity_env.envs.edits import GROW, KEEP, PRUNE, REVIVE
from plasticity_env.envs.observation import Observation, head_column
from plasticity_env.signals.scores import SCORES

PRUNED_LIKE = {"residual_fisher": "fisher", "residual_gradient": "gradient", "obs": "fisher"}  # 0 for a pruned head
AMONG_ACTIVE = ("fisher_obs", "flap")  # compare active heads with each other and say nothing of pruned ones
RETURNS = {"revive": REVIVE, "grow": GROW}


class RevivingController(RankedController):
    """Ranks pruned heads among the active ones, by one score.

    A pruned head is scored at its closed gate. It stands for choice where opening it lowers the loss to first order (for the
    score ``random``: always), its score divided by 1 + ``margin``, once it has been pruned for ``rest`` decisions. A score
    that is 0 for pruned heads by definition takes another one's value there (`PRUNED_LIKE`), brought to its scale by the
    mean log ratio of the two over the active heads.

    Args:
        score: Name in `SCORES` but for `AMONG_ACTIVE`; needs an environment in adaptive mode.
        sparsity: Share of all heads to prune on Heads; HeadRank has a target of its own.
        rounds: Number of decisions over which that share is reached on Heads.
        margin: How much better than an active head a pruned one must look to take its place, at least 0.
        rest: Decisions a head stays pruned at least.
        returns: What brings a head back on Heads, "revive" or "grow"; HeadRank always revives.

    Raises:
        InputError: An option outside its range, or a score that says nothing of pruned heads.
    """

    def __init__(
        self,
        score: str = "fisher",
        sparsity: float = 0.3,
        rounds: int = 1,
        margin: float = 0.5,
        rest: int = 1,
        returns: Literal["revive", "grow"] = "revive",
    ) -> None:
        super().__init__(sparsity, rounds)
        if score not in SCORES:
            raise unknown("score", score, SCORES)
        if score in AMONG_ACTIVE:
            there = ", ".join(name for name in SCORES if name not in AMONG_ACTIVE)
            raise InputError(f"score {score!r} compares active heads only, so none could come back by it: use {there}")
        if not margin >= 0 or rest < 0:
            raise InputError(f"margin and rest must be at least 0, got {margin!r} and {rest!r}")
        if returns not in RETURNS:
            raise unknown("way to return", returns, RETURNS)
        self.name = f"{returns}:{score}"
        self._score, self._margin, self._rest, self._edit = score, margin, rest, RETURNS[returns]
        self.reset(0)

    def importance(self, observation: Observation) -> np.ndarray:
        active = head_column(observation, "active") > 0.5
        scores = SCORES[self._score].importance(units_of(observation, self.random))
        if self._score in PRUNED_LIKE:
            scores = np.where(active, scores, self._likened(observation, scores, active))
        candidate = ~active & (head_column(observation, "age") >= self._rest)
        if self._score != "random":
            candidate &= head_column(observation, "revive") > 0
        floor = scores[active].min(initial=np.inf) - 1.0  # below every active head
        return np.where(active, scores, np.where(candidate, scores / (1 + self._margin), floor))

    def act(self, observation: Observation) -> Action:
        importance = self.importance(observation)
        if wants_scores(observation):
            return as_scores(importance, np.ones(len(importance), dtype=bool))
        active = head_column(observation, "active") > 0.5
        gone = max(int(self._due(observation, np.ones(len(active)))), int((~active).sum()))
        pruned = np.zeros(len(active), dtype=bool)
        pruned[np.argsort(importance, kind="stable")[:gone]] = True
        edits = np.where(active & pruned, PRUNE, np.where(~active & ~pruned, self._edit, KEEP))
        return as_action(observation, edits, -importance)

    def _likened(self, observation: Observation, scores: np.ndarray, active: np.ndarray) -> np.ndarray:
        like = head_column(observation, PRUNED_LIKE[self._score]).astype(np.float64)
        both = active & (like > 0) & (scores > 0)
        ratio = np.exp(np.mean(np.log(scores[both] / like[both]))) if both.any() else 1.0
        return np.asarray(like * ratio)
