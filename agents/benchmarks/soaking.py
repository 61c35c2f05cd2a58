"""Many episodes in one process: how its memory goes, and what grows.

What may grow is bounded: the measurements that a workbench remembers, the hidden states that forwards start from, moments of
calibration texts. Beside these every episode must leave as many objects behind as it found.
"""

from __future__ import annotations

import gc
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
import psutil
import torch

from plasticity_env import controllers
from plasticity_env.agents.training.agent import ENVIRONMENTS
from plasticity_env.common.arguments import check_counts, flags
from plasticity_env.common.errors import unknown
from plasticity_env.envs.settings import Settings


@dataclass(frozen=True)
class SoakConfig:
    """Arguments of a soak."""

    episodes: int = 1500
    """how many to play, with random actions that the mask allows"""
    every: int = 50
    """episodes between two measurements of the memory"""
    env: str = "heads"
    """heads, head_edit or head_rank"""
    settings: Annotated[Settings, flags(Settings)] = field(
        default_factory=lambda: Settings(max_length=64, calibration_blocks=4, reward_blocks=4)
    )
    """arguments of the environment"""
    seed: int = 0
    """seed of the first episode; the others count up from it"""


@dataclass(frozen=True)
class Look:
    """The memory at one moment.

    Attributes:
        episodes: Played so far.
        resident_mb: Resident memory of the process, MB.
        tensor_mb: Size of all tensors' storages in MB, each counted once.
        remembered: Measurements in the workbench's memo.
        prefix_mb: Hidden states that forwards may start from.
        objects: How many the garbage collector knows of each type.
    """

    episodes: int
    resident_mb: float
    tensor_mb: float
    remembered: int
    prefix_mb: float
    objects: Counter[str]

    def grown(self, before: Look, most: int = 5) -> str:
        """The types of which there are most more than before."""
        more = (self.objects - before.objects).most_common(most)
        return ", ".join(f"{name} +{count}" for name, count in more) or "nothing"


def soak(config: SoakConfig, make: Callable[[], gym.Env[Any, Any]] | None = None) -> Iterator[Look]:
    """Play episodes, and look at the memory after every so many.

    Args:
        config: How many, of what.
        make: Makes the environment; by the arguments when None.

    Raises:
        InputError: Arguments that cannot be used.
    """
    check_counts(config, episodes=1, every=1, seed=0)
    if config.env not in ENVIRONMENTS:
        raise unknown("environment", config.env, ENVIRONMENTS)
    env = make() if make is not None else gym.make(ENVIRONMENTS[config.env], **_kwargs(config))
    random = np.random.default_rng(config.seed)
    for episode in range(1, config.episodes + 1):
        observation, _ = env.reset(seed=config.seed + episode)
        over = False
        while not over:
            env.action_space.seed(int(random.integers(1 << 30)))
            box = isinstance(env.action_space, gym.spaces.Box)
            action = env.action_space.sample(mask=None if box else controllers.sample_mask(observation))
            observation, _, terminated, truncated, _ = env.step(action)
            over = terminated or truncated
        if episode % config.every == 0:
            yield look(env.unwrapped, episode)


def look(env: Any, episodes: int) -> Look:
    """Count what there is at this moment."""
    gc.collect()
    things = gc.get_objects()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some deprecated objects of torch warn when they are asked what they are
        storages = {
            thing.untyped_storage().data_ptr(): thing.untyped_storage().nbytes()
            for thing in things
            if issubclass(type(thing), torch.Tensor) and thing.layout is torch.strided
        }
    return Look(
        episodes,
        psutil.Process().memory_info().rss / 2**20,
        sum(storages.values()) / 2**20,
        len(env.workbench.memo),
        env.workbench.prefix.nbytes / 2**20,
        Counter(type(thing).__name__ for thing in things),
    )


def _kwargs(config: SoakConfig) -> dict[str, Any]:
    values = config.settings.kwargs()
    return values if config.env == "head_rank" else {k: v for k, v in values.items() if k != "pruned_share"}
