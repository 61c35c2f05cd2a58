"""`plasticity/HeadRank-v1` for learners that bring their own rollouts: rewards in units of a rule on the same scenario."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from plasticity_env import controllers
from plasticity_env.agents.ppo.scenarios import SMALLEST_RISE
from plasticity_env.envs.observation import Observation


class RelativeRise(gym.Wrapper[Observation, Any, Observation, Any]):
    """Pays the fall of the loss, over the rise that a reference rule ends with on the same scenario.

    A return of -1 is the rule's. Scenarios (share, price, blocks) are those of a pool of seeds, so that the rule has to play
    each only once.

    Args:
        env: A HeadRank environment.
        reference: Name of the rule.
        pool: Scenarios to play.

    Attributes:
        reference: Name of the rule.
        reference_steps: Steps that the rule has taken so far.
    """

    def __init__(self, env: gym.Env[Any, Any], reference: str = "fisher", pool: int = 64) -> None:
        super().__init__(env)
        self._rule, self._pool, self.reference = controllers.make(reference), pool, reference
        self._units: dict[int, float] = {}
        self._random = np.random.default_rng(0)
        self.reference_steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        if seed is not None:
            self._random = np.random.default_rng(seed)
        number = int(self._random.integers(self._pool))
        observation, info = self.env.reset(seed=number, options=options)
        self._loss = info["loss"]
        self._unit = self._units[number] if number in self._units and not options else self._play(observation, info)
        if not options:
            self._units[number] = self._unit
        return observation, info

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        observation, _, terminated, truncated, info = self.env.step(action)
        reward = (self._loss - info["loss"]) / self._unit
        self._loss = info["loss"]
        return observation, float(reward), terminated, truncated, info

    def let_rule_act(self) -> None:
        """Let the rule act once, on an episode of its own: one that needs more than is measured says so."""
        fork: Any = self.env.unwrapped.fork()  # type: ignore[attr-defined]
        observation, _ = fork.reset(seed=0)
        self._rule.reset(0)
        self._rule.act(observation)
        fork.close()

    def _play(self, observation: Observation, info: dict[str, Any]) -> float:
        fork: Any = self.env.unwrapped.fork()  # type: ignore[attr-defined]
        self._rule.reset(0)
        dense, over = info["loss"], False
        while not over:
            observation, _, over, _, info = fork.step(self._rule.act(observation))
            self.reference_steps += 1
        return max(float(info["loss"] - dense), SMALLEST_RISE)
