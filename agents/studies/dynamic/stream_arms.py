"""Ways to play `plasticity/Stream-v0`: fixed structures, a drift detector, oracles, and learned agents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import gymnasium as gym
import numpy as np

from plasticity_env.common.errors import check_least
from plasticity_env.envs.stream_env import KEEP, MEASURE, RECALL, StreamEnv

SLACK, THRESHOLD = 0.1, 1.0  # nats: of the CUSUM


class Arm(Protocol):
    """Plays streams."""

    def start(self, env: StreamEnv) -> None:
        """A new stream begins."""

    def act(self, env: StreamEnv, observation: dict[str, np.ndarray], info: dict[str, Any]) -> int:
        """What to do before the next chunk."""
        ...


class Always:
    """The same action before every chunk."""

    def __init__(self, action: int) -> None:
        self._action = action

    def start(self, env: StreamEnv) -> None:
        pass

    def act(self, env: StreamEnv, observation: dict[str, np.ndarray], info: dict[str, Any]) -> int:
        return self._action


class MeasureEvery:
    """Measures before every so many chunks, and keeps in between.

    Args:
        every: Number of chunks that a measurement serves.
    """

    def __init__(self, every: int) -> None:
        self._every = check_least("every", every, 1)

    def start(self, env: StreamEnv) -> None:
        self._played = 0

    def act(self, env: StreamEnv, observation: dict[str, np.ndarray], info: dict[str, Any]) -> int:
        measures = self._played % self._every == 0
        self._played += 1
        return MEASURE if measures else KEEP


class Nearest:
    """Recalls the structure whose text the last chunk was most like."""

    def start(self, env: StreamEnv) -> None:
        pass

    def act(self, env: StreamEnv, observation: dict[str, np.ndarray], info: dict[str, Any]) -> int:
        kinds = len(env.bench.texts)
        return RECALL + 1 + int(observation["structures"][1 : 1 + kinds, 2].argmin())


class StageOracle:
    """Recalls the structure of the next chunk's own kind, which nobody knows."""

    def start(self, env: StreamEnv) -> None:
        pass

    def act(self, env: StreamEnv, observation: dict[str, np.ndarray], info: dict[str, Any]) -> int:
        kind, _ = env.next_chunk
        return RECALL + env.bench.bank.find(kind, env.settings.share)


class Cusum:
    """Measures when the loss has risen above its running mean for long enough (Page's cumulative sum), else keeps.

    The sum takes what a chunk's loss is above the mean since the last measurement, less a slack, and never falls below 0.
    """

    def start(self, env: StreamEnv) -> None:
        self._losses: list[float] = []
        self._sum = 0.0

    def act(self, env: StreamEnv, observation: dict[str, np.ndarray], info: dict[str, Any]) -> int:
        loss = float(info["loss"])
        mean = float(np.mean(self._losses)) if self._losses else loss
        self._losses.append(loss)
        self._sum = max(0.0, self._sum + abs(loss - mean) - SLACK)
        if self._sum <= THRESHOLD:
            return KEEP
        self._losses, self._sum = [], 0.0
        return MEASURE


class AtRandom:
    """Any structure of the bank but the dense one."""

    def start(self, env: StreamEnv) -> None:
        self._random = np.random.default_rng(0)

    def act(self, env: StreamEnv, observation: dict[str, np.ndarray], info: dict[str, Any]) -> int:
        return RECALL + int(self._random.integers(1, len(env.bench.bank)))


class WithoutMeasuring(gym.ActionWrapper[Any, Any, Any]):
    """A stream on which an agent keeps or recalls, and never measures: what it learns from is looked up once all is known.

    Args:
        env: A stream.
    """

    def __init__(self, env: StreamEnv) -> None:
        super().__init__(env)
        assert isinstance(env.action_space, gym.spaces.Discrete)
        self.action_space = gym.spaces.Discrete(int(env.action_space.n) - 1)

    def action(self, action: Any) -> int:
        """The stream's own number of an action."""
        return int(action) if int(action) < MEASURE else int(action) + 1


class Learned:
    """A Stable-Baselines3 agent that was trained on flat observations.

    Args:
        agent: Agent whose ``predict`` is asked.
        action: From its actions to those of the stream.
    """

    def __init__(self, agent: Any, action: Callable[[Any], int] = int) -> None:
        self._agent, self._action = agent, action

    def start(self, env: StreamEnv) -> None:
        pass

    def act(self, env: StreamEnv, observation: dict[str, np.ndarray], info: dict[str, Any]) -> int:
        flat = np.concatenate([observation[name].ravel() for name in ("chunk", "structures", "globals")])
        action, _ = self._agent.predict(flat, deterministic=True)
        return self._action(action)
