"""Swaps found by measuring: what revival could gain if a rule could see the loss itself."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from plasticity_env.controllers.base import Action
from plasticity_env.controllers.score_controller import units_of
from plasticity_env.envs.base import PlasticityEnv
from plasticity_env.envs.observation import Observation, head_column
from plasticity_env.signals.scores import SCORES


class SwapSearch:
    """Prunes by a score up to the due share, then swaps heads while that lowers the loss on calibration text.

    Each round of the search opens every pruned head alone and closes every active one alone, both repaired, and tries the pair
    of the best two; it is taken where the measured loss falls. For HeadRank only.

    Args:
        score: Score to prune by.
        swaps: Most swaps a decision.
        blocks: Blocks of the calibration split on which losses are measured.
        seed: Seed of the score, where it draws.

    Attributes:
        evaluations: Masks measured so far.
    """

    def __init__(self, score: str = "fisher", swaps: int = 1, blocks: int = 8, seed: int = 0) -> None:
        self._score, self._swaps, self._blocks = SCORES.find(score), swaps, blocks
        self._random = np.random.default_rng(seed)
        self.evaluations = 0

    def __call__(self, env: PlasticityEnv, observation: Observation) -> Action:
        scores = self._score.importance(units_of(observation, self._random))
        active = head_column(observation, "active") > 0.5
        order = np.lexsort((scores, active))  # what is pruned stays so, then the lowest score
        ranks = np.empty(len(scores), dtype=np.float32)
        ranks[order] = np.linspace(-1.0, 1.0, len(scores), dtype=np.float32)
        mask = env.preview(ranks)
        loss = self._loss(env, mask)
        for _ in range(self._swaps):
            swapped = self._swapped(env, mask)
            if swapped is None:
                break
            better = self._loss(env, swapped)
            if better >= loss:
                break
            mask, loss = swapped, better
        return np.where(mask.flatten().numpy(), 1.0, -1.0).astype(np.float32)

    def _swapped(self, env: PlasticityEnv, mask: Tensor) -> Tensor | None:
        """The mask with the pruned head that helps most opened and the active one that costs least closed."""
        gains = {unit: self._loss(env, _flipped(mask, unit)) for unit in range(mask.numel())}
        pruned = [unit for unit in gains if not mask.view(-1)[unit]]
        active = [unit for unit in gains if mask.view(-1)[unit]]
        if not pruned or len(active) < 2:
            return None
        opened, closed = min(pruned, key=gains.__getitem__), min(active, key=gains.__getitem__)
        return _flipped(_flipped(mask, opened), closed)

    def _loss(self, env: PlasticityEnv, mask: Tensor) -> float:
        self.evaluations += 1
        return env.evaluate("calibration", self._blocks, mask)


def _flipped(mask: Tensor, unit: int) -> Tensor:
    flipped = mask.clone()
    flipped.view(-1)[unit] = ~flipped.view(-1)[unit]
    return torch.as_tensor(flipped)
