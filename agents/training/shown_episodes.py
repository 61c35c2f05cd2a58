"""Episodes that a training shows: the controller as it is, always on the same scenario, a few times on the way."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import torch

from plasticity_env.agents.training.train_config import TrainConfig
from plasticity_env.common.tracking import EpisodeStep, Tracker
from plasticity_env.controllers.ann import ANNController
from plasticity_env.envs.edits import EDITS
from plasticity_env.envs.settings import bounds

TIMES, COST = 10, 0.05  # episodes on the way, and the share of the training's steps that they may take
DONE = {"prune": "pruned", "revive": "revived", "grow": "grown"}
Edits = list[tuple[str, int, int]]  # edit, layer, head


def scenario_of(config: TrainConfig) -> tuple[str, tuple[float, float]]:
    """What a reset is told, and its range: a target share on HeadRank, else a price."""
    if config.env == "head_rank":
        return "pruned_share", config.rank.shares
    return "flop_price", bounds(config.settings.flop_price)


def first_of_models(envs: list[gym.Env[Any, Any]]) -> list[Any]:
    """The first environment over each language model, in order."""
    first = {env.unwrapped.workbench.name: env.unwrapped for env in reversed(envs)}  # type: ignore[attr-defined]
    return list(reversed(first.values()))


def play_shown(controller: ANNController, env: Any, options: dict[str, float]) -> tuple[list[EpisodeStep], list[Edits]]:
    """Play an episode.

    Args:
        controller: Controller that acts.
        env: Environment to play in, without wrappers.
        options: Options of the reset.

    Returns:
        The start and each step, and the edits that each step made.
    """
    observation, info = env.reset(seed=0, options=options)
    steps, made, over = [_step(env, "the start", info)], [], False
    while not over:
        before, action = env.workbench.model.active, controller.act(observation)
        asked = env.edits_of(action)[0]
        observation, reward, terminated, truncated, info = env.step(action)
        over = terminated or truncated
        changed = (before != env.workbench.model.active).nonzero().tolist()
        edits = [(EDITS[int(asked[layer, head])], layer, head) for layer, head in changed]
        counts = Counter(DONE.get(edit, edit) for edit, _, _ in edits)
        note = ", ".join(f"{count} {what}" for what, count in counts.items()) or "no edit"
        steps.append(_step(env, note, info, reward=float(reward)))
        made.append(edits)
    return steps, made


def _step(env: Any, note: str, info: dict[str, Any], **more: float) -> EpisodeStep:
    numbers = {**more, "ppl": float(info["ppl"]), "flops_kept": float(info["flops"] / env.dense_flops)}
    return EpisodeStep(env.workbench.model.active.int().tolist(), note, numbers)


class ShownEpisodes:
    """Plays and writes them; what is trained does not notice, since each is played in a fork.

    Args:
        config: Arguments of the training.
        envs: Environments of the training.
        tracker: Gets the episodes, and the heads that are left after each.
        start: Environment steps that lie behind.
    """

    def __init__(self, config: TrainConfig, envs: list[gym.Env[Any, Any]], tracker: Tracker, start: int) -> None:
        self._config, self._envs, self._tracker = config, first_of_models(envs), tracker
        self._total, self._last = config.ppo.total_timesteps, start
        steps = sum(env.settings.horizon for env in self._envs)
        self._times = min(TIMES, int(COST * self._total / steps))
        self._done = self._due(start)

    @property
    def end(self) -> int:
        """The step of what is played when the training is over: one more than its last, which a resume at the end forgets."""
        return self._last + 1

    def _due(self, step: int) -> int:
        return min(self._times, step * self._times // self._total)

    def look(self, step: int, now: Callable[[], ANNController]) -> None:
        """Play one where it is time to.

        Args:
            step: Environment steps so far.
            now: Makes the controller as it is.
        """
        self._last = max(self._last, step)
        if self._due(step) <= self._done:
            return
        self._done = self._due(step)
        name, (low, high) = scenario_of(self._config)
        value = math.sqrt(low * high)
        with torch.random.fork_rng(devices=[]):
            controller = now()
            for env in self._envs:
                fork = env.fork()
                self.write(fork, play_shown(controller, fork, {name: value})[0], step, f"{name} {value:.3g}")
                fork.close()

    def write(self, env: Any, steps: list[EpisodeStep], step: int, title: str) -> None:
        """Write an episode that was played."""
        model, heads = env.workbench.name, env.workbench.model.heads
        self._tracker.episode(steps, step, model, title, heads)
        self._tracker.heads(steps[-1].active, step, model, heads)
