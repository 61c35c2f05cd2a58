"""Decisions a second of the native vector environment of Route-v0, and what it adds to the time of an SB3 PPO run.

Single environments, Gymnasium's `SyncVectorEnv` over them and the native one take turns with the same actions. PPO runs on the
native one and on a stand-in that hands the same arrays back, in turns as well: the ratio of their seconds is what the
environment adds. All on the table that comes with the package.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from plasticity_env.agents.benchmarks.bench_options import Options, whole_numbers
from plasticity_env.agents.sb3.native_vec_env import NativeVecEnv
from plasticity_env.common.stopwatch import CLOCKS, Clock, ratio, take_turns

ENVS = 256  # where --envs is not given
STEPS = 16  # of each environment in a turn, and in a rollout of PPO
ROUTE = "plasticity/Route-v0"


@dataclass(frozen=True)
class RouteRow:
    """Medians over the rounds; ratios are medians of each round's ratio, with their range.

    Attributes:
        bench, num_envs, structures, probes, columns: What was measured; columns of the flat observation.
        decisions: Decisions a second of the native vector environment.
        over_single, over_sync: Ratios to the decisions a second of single environments and of `SyncVectorEnv`.
        ppo_steps: Environment steps a second of an SB3 PPO run on it.
        ppo_added: Seconds of that run over those of one whose environment hands the same arrays back, less 1.
        step_share: Share of the run's seconds that passes in the environment's steps, the adapter to SB3 included.
        rounds: Number of rounds.
    """

    bench: str
    num_envs: int
    structures: int
    probes: int
    columns: int
    decisions: float
    over_single: float
    over_single_range: tuple[float, float]
    over_sync: float
    over_sync_range: tuple[float, float]
    ppo_steps: float
    ppo_added: float
    ppo_added_range: tuple[float, float]
    step_share: float
    rounds: int


def route_rows(options: Options) -> Iterator[RouteRow]:
    """A row for every number of environments, without probes and with one.

    Raises:
        InputError: A number of environments that is not a whole number of at least 1.
    """
    options.check()
    given = options.envs != Options.envs
    for count in whole_numbers(options.envs, "envs", 1) if given else [ENVS]:
        for probes in (0, 1):
            yield bench_route(count, probes, options.rounds, options.clock)


def bench_route(num_envs: int, probes: int = 0, rounds: int = 7, clock: Clock = "wall") -> RouteRow:
    """Time N environments every way.

    Args:
        num_envs: Number N of environments.
        probes: Probes that an agent may make.
        rounds: Rounds after one that does not count.
        clock: See `plasticity_env.common.stopwatch.timed`.
    """
    settings: dict[str, Any] = {"observation": "flat", "probes": probes}

    def single() -> gym.Env[Any, Any]:
        return gym.make(ROUTE, disable_env_checker=True, **settings)

    alone = [single() for _ in range(num_envs)]
    native = gym.make_vec(ROUTE, num_envs=num_envs, **settings)
    mode = gym.vector.AutoresetMode.SAME_STEP
    sync = gym.vector.SyncVectorEnv([single] * num_envs, autoreset_mode=mode)
    for seed, env in enumerate(alone):
        env.reset(seed=seed)
    native.reset(seed=0)
    sync.reset(seed=0)
    actions = np.random.default_rng(0).integers(0, native.single_action_space.n, (STEPS, num_envs))  # type: ignore[attr-defined]
    ways: dict[str, Callable[[], object]] = {
        "native": lambda: [native.step(row) for row in actions],
        "single": lambda: _one_by_one(alone, actions),
        "sync": lambda: [sync.step(row) for row in actions],
    }
    cpu = torch.device("cpu")
    times = take_turns(ways, rounds, cpu, clock)
    over = {name: ratio(times[name], times["native"]) for name in ("single", "sync")}
    watched, held = _Watched(native, clock), _Held(native)
    runs = {"route": functools.partial(_learn, watched), "held": functools.partial(_learn, held)}
    seconds = take_turns(runs, rounds, cpu, clock)
    added, added_range = ratio(seconds["route"], seconds["held"])
    sync.close()
    return RouteRow(
        bench="route",
        num_envs=num_envs,
        structures=native.unwrapped.board.columns.structures,  # type: ignore[attr-defined]
        probes=probes,
        columns=native.single_observation_space.shape[0],  # type: ignore[index]
        decisions=STEPS * num_envs / statistics.median(times["native"]),
        over_single=over["single"][0],
        over_single_range=over["single"][1],
        over_sync=over["sync"][0],
        over_sync_range=over["sync"][1],
        ppo_steps=STEPS * num_envs / statistics.median(seconds["route"]),
        ppo_added=added - 1,
        ppo_added_range=(added_range[0] - 1, added_range[1] - 1),
        step_share=watched.seconds / watched.runs / statistics.mean(seconds["route"]),
        rounds=rounds,
    )


def _one_by_one(envs: list[gym.Env[Any, Any]], actions: np.ndarray) -> None:
    for row in actions:
        for env, action in zip(envs, row, strict=True):
            if env.step(action)[2]:
                env.reset()


def _learn(envs: NativeVecEnv) -> None:
    """One rollout and update of an unmodified PPO, ten epochs as is its default."""
    from stable_baselines3 import PPO

    batch = min(512, STEPS * envs.num_envs)
    PPO("MlpPolicy", envs, n_steps=STEPS, batch_size=batch, device="cpu", seed=0).learn(STEPS * envs.num_envs)


class _Watched(NativeVecEnv):
    """Counts the seconds of its steps; the runs of the first, uncounted round are left out by the mean over runs.

    Args:
        envs: The vector environment.
        clock: Name of the clock.
    """

    def __init__(self, envs: Any, clock: Clock) -> None:
        super().__init__(envs)
        self.seconds, self.runs, self._clock = 0.0, 0, CLOCKS[clock]

    def reset(self) -> Any:
        self.runs += 1
        return super().reset()

    def step_wait(self) -> Any:
        started = self._clock()
        found = super().step_wait()
        self.seconds += self._clock() - started
        return found


class _Held(NativeVecEnv):
    """Hands the first step's arrays back, at no cost: the same run without an environment.

    Args:
        envs: The vector environment, stepped once.
    """

    def __init__(self, envs: Any) -> None:
        super().__init__(envs)
        self._first = super().reset()
        self.step_async(np.zeros(envs.num_envs, dtype=np.int64))
        self._found = super().step_wait()

    def reset(self) -> Any:
        return self._first

    def step_wait(self) -> Any:
        return self._found
