"""RAP's agent: it removes attention layers and MLPs of a request one after another, until the FLOPs are those of a budget.

Liu et al. 2025, "RAP: Runtime-Adaptive Pruning for LLM Inference" (arXiv 2505.17138). Here the agent is MaskablePPO of
sb3-contrib as it is, sees what came before the text (features of its first tokens, or of the last chunk of a stream), the
parts that are gone, the FLOPs left and the budget, and is paid the rise of the text's loss once the budget is met. The paper's
agent sees the request's batch and length in the place of its text, under a budget of memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from plasticity_env.agents.studies.dynamic.published.removable import Removable
from plasticity_env.common.lru import Memo

PPO: dict[str, Any] = {"n_steps": 256, "batch_size": 64, "gamma": 1.0, "ent_coef": 0.01, "learning_rate": 1e-3}
LossOf = Callable[[int, Tensor], float]  # a text's number and an (L, U) mask -> its loss


class RemovalEnv(gym.Env[np.ndarray, np.int64]):
    """One text an episode, one part a step.

    Args:
        removable: What can go, and the table of FLOPs.
        budgets: FLOPs per token; one is drawn for each episode.
        features: (n, F) what is known of n texts before they run.
        loss_of: Loss of a text under a mask, nats per token.
    """

    def __init__(self, removable: Removable, budgets: Sequence[float], features: np.ndarray, loss_of: LossOf) -> None:
        self.removable, self._budgets, self._loss_of = removable, tuple(budgets), loss_of
        self._center, self._scale = features.mean(0), np.maximum(features.std(0), 1e-6)
        self._features = features
        self._whole = float(removable.table.total(self._mask(np.zeros(len(removable), dtype=bool))))
        self._losses: Memo[float] = Memo(2**16)
        self.action_space = gym.spaces.Discrete(len(removable))
        size = features.shape[1] + len(removable) + 2
        self.observation_space = gym.spaces.Box(-10, 10, (size,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Draw a text and a budget."""
        super().reset(seed=seed)
        self._text = int(self.np_random.integers(len(self._features)))
        self._start(self._features[self._text], self._budgets[self.np_random.integers(len(self._budgets))])
        return self._observation(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Remove a part; at the budget the text runs."""
        over = self._remove(int(action))
        reward = self._loss(np.zeros_like(self._gone)) - self._loss(self._gone) if over else 0.0
        return self._observation(), reward, over, False, {}

    def action_masks(self) -> np.ndarray:
        """(n,) True for the parts that are left."""
        left: np.ndarray = ~self._gone
        return left

    def mask_of(self, agent: Any, features: np.ndarray, budget: float) -> Tensor:
        """(L, U) mask that a trained agent leaves of a text.

        Args:
            agent: Asked by ``predict``.
            features: (F,) of the text.
            budget: FLOPs per token.
        """
        self._start(features, budget)
        over = False
        while not over:
            action, _ = agent.predict(self._observation(), deterministic=True, action_masks=self.action_masks())
            over = self._remove(int(action))
        return self._mask(self._gone)

    # -- parts -----------------------------------------------------------------------------------------------------------

    def _start(self, features: np.ndarray, budget: float) -> None:
        self._seen = (features - self._center) / self._scale
        self._budget, self._gone = budget, np.zeros(len(self.removable), dtype=bool)

    def _remove(self, part: int) -> bool:
        """Whether the FLOPs are as near to the budget as this sequence of removals comes; the last one is taken back where the
        state before it was nearer."""
        before = self._gone.copy()
        self._gone[part] = True
        if self._flops(self._gone) > self._budget and not self._gone.all():
            return False
        if abs(self._flops(before) - self._budget) <= abs(self._flops(self._gone) - self._budget):
            self._gone = before
        return True

    def _mask(self, gone: np.ndarray) -> Tensor:
        return self.removable.without(torch.from_numpy(gone))

    def _flops(self, gone: np.ndarray) -> float:
        return float(self.removable.table.total(self._mask(gone)))

    def _loss(self, gone: np.ndarray) -> float:
        key = (self._text, gone.tobytes())
        known = self._losses.get(key)
        return self._losses.put(key, self._loss_of(self._text, self._mask(gone))) if known is None else known

    def _observation(self) -> np.ndarray:
        shares = self._flops(self._gone) / self._whole, self._budget / self._whole
        seen = np.clip(np.concatenate([self._seen, self._gone, shares]), -10, 10)
        return seen.astype(np.float32)


def trained_remover(env: RemovalEnv, steps: int, seed: int) -> Any:
    """An agent that was trained for so many removals."""
    from sb3_contrib import MaskablePPO

    agent = MaskablePPO("MlpPolicy", env, seed=seed, device="cpu", **PPO)
    return agent.learn(steps)


def remover_flops(agent: Any) -> float:
    """FLOPs of one decision of the agent."""
    weights = (weight for weight in agent.policy.parameters() if weight.ndim == 2)
    return 2.0 * sum(weight.numel() for weight in weights)
