"""Playing episodes for a data set: an expert, random actions, or both in turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import gymnasium as gym
import numpy as np

from plasticity_env import controllers
from plasticity_env.agents.offline import route_recording
from plasticity_env.agents.offline.minari_files import check_new, stored_in
from plasticity_env.agents.offline.record_config import RECORDED, RecordConfig
from plasticity_env.common.at_work import at_work_on
from plasticity_env.common.progress import Progress
from plasticity_env.controllers.base import Action, sample_mask, wants_scores
from plasticity_env.envs.observation import Observation

Policy = Callable[[Any], Any]
SITE = "https://pypi.org/project/plasticity-env"
NUMBERS = (
    "loss",
    "ppl",
    "flops",
    "params",
    "active_heads",
    "active_units",
    "invalid_actions",
)  # of infos, that are kept


@dataclass(frozen=True)
class Played:
    """One episode of T steps.

    Attributes:
        seed: Seed of its reset.
        observations: T + 1 of each part.
        actions, rewards: T actions and rewards.
        infos: T + 1 of each number.
    """

    seed: int
    observations: dict[str, list[np.ndarray]]
    actions: list[Any]
    rewards: list[float]
    infos: dict[str, list[float]]


def record(config: RecordConfig) -> str:
    """Play episodes and write them as a Minari data set.

    Args:
        config: Arguments.

    Returns:
        A line that says what was written.

    Raises:
        InputError: Arguments that cannot be used, a data set that is there already, Minari is not installed, or another
            process records it.
    """
    with stored_in(config.root), at_work_on(check_new(config.name)):
        env, expert, settings = _route_players(config) if config.env == "route" else _players(config)
        env.action_space.seed(config.seed)
        played = []
        numbers = route_recording.NUMBERS if config.env == "route" else NUMBERS
        with Progress("recording", config.episodes) as progress:
            for episode in episodes(env, expert, config, numbers):
                played.append(episode)
                progress.advance(1, reward=sum(episode.rewards))
        mean = float(np.mean([sum(episode.rewards) for episode in played]))
        _write(config, settings, env, played, mean)
        env.close()
    steps = sum(len(episode.rewards) for episode in played)
    return f"{len(played)} episodes, {steps} steps, mean return {mean:.4f} nats: {config.name}"


def _players(config: RecordConfig) -> tuple[gym.Env[Any, Any], Any, dict[str, Any]]:
    """The environment, who plays it, and its arguments."""
    expert = controllers.make(config.expert)
    settings = config.environment(expert.signals)
    return gym.make(RECORDED[config.env], **settings.kwargs()), expert, asdict(settings)


def _route_players(config: RecordConfig) -> tuple[gym.Env[Any, Any], Any, dict[str, Any]]:
    env, expert = route_recording.route_players(config)
    return env, expert, expert.board.settings.kwargs()


def episodes(
    env: gym.Env[Any, Any], expert: Any, config: RecordConfig, numbers: Sequence[str] = NUMBERS
) -> Iterator[Played]:
    """Play episodes, one for each seed from the first on.

    Args:
        env: The environment.
        expert: A `Controller`, or for route a `RouteExpert`.
        config: Arguments.
        numbers: What is kept of infos.
    """
    for seed in range(config.seed, config.seed + config.episodes):
        if config.env != "route":
            expert.reset(seed)
        random = np.random.default_rng(seed)
        by_chance = _route_by_chance(env) if config.env == "route" else _edits_by_chance(env)
        yield _play(env, _policy(expert.act, by_chance, config.quality, random), seed, numbers)


def _edits_by_chance(env: gym.Env[Any, Any]) -> Policy:
    def choose(observation: Observation) -> Action:
        if wants_scores(observation):
            action: Action = env.action_space.sample()
            return action
        return env.action_space.sample(mask=sample_mask(observation))  # type: ignore[no-any-return]

    return choose


def _route_by_chance(env: gym.Env[Any, Any]) -> Policy:
    return lambda _: env.action_space.sample()


def _policy(expert: Policy, by_chance: Policy, quality: str, random: np.random.Generator) -> Policy:
    if quality == "expert":
        return expert
    if quality == "random":
        return by_chance
    return lambda observation: (expert if random.random() < 0.5 else by_chance)(observation)


def _play(env: gym.Env[Any, Any], policy: Policy, seed: int, numbers: Sequence[str]) -> Played:
    observation, info = env.reset(seed=seed)
    seen: dict[str, list[np.ndarray]] = {name: [values] for name, values in observation.items()}
    infos = {name: [float(info.get(name, np.nan))] for name in numbers}
    actions, rewards, over = [], [], False
    while not over:
        action = policy(observation)
        observation, reward, terminated, truncated, info = env.step(action)
        over = terminated or truncated
        actions.append(np.asarray(action, dtype=env.action_space.dtype))
        rewards.append(float(reward))
        for name, values in observation.items():
            seen[name].append(values)
        for name in numbers:
            infos[name].append(float(info.get(name, np.nan)))
    return Played(seed, seen, actions, rewards, infos)


def _write(
    config: RecordConfig, settings: dict[str, Any], env: gym.Env[Any, Any], played: list[Played], mean: float
) -> None:
    import minari
    from minari.data_collector import EpisodeBuffer

    buffers = []
    for number, episode in enumerate(played):
        ends = [False] * (len(episode.rewards) - 1) + [True]
        buffers.append(
            EpisodeBuffer(
                id=number,
                seed=episode.seed,
                observations=episode.observations,  # type: ignore[arg-type]
                actions=episode.actions,
                rewards=episode.rewards,
                terminations=ends,
                truncations=[False] * len(ends),
                infos=episode.infos,
            )
        )
    own = version("plasticity-env")
    dataset = minari.create_dataset_from_buffers(
        config.name,
        buffers,
        env=env,
        algorithm_name=config.played_by,
        author="plasticity-env",
        code_permalink=SITE,
        description=config.description(),
        requirements=[f"plasticity-env=={own}"],
        data_format="arrow",
    )
    dataset.storage.update_metadata(
        {
            "plasticity": {
                "version": own,
                "quality": config.quality,
                "controller": config.expert,
                "first_seed": config.seed,
                "mean_return": mean,
                "settings": settings,
            }
        }
    )
