"""Playing episodes for a data set: an expert, random actions, or both in turns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import gymnasium as gym
import numpy as np

from plasticity_env import controllers
from plasticity_env.agents.offline.cast import Cast, Policy, cast_of_edits
from plasticity_env.agents.offline.minari_files import check_new, stored_in
from plasticity_env.agents.offline.record_config import RECORDED, RecordConfig
from plasticity_env.agents.offline.route_recording import cast_of_routes
from plasticity_env.common.at_work import at_work_on
from plasticity_env.common.progress import Progress

SITE = "https://pypi.org/project/plasticity-env"


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
        cast, played = cast_of(config), []
        cast.env.action_space.seed(config.seed)
        with Progress("recording", config.episodes) as progress:
            for episode in episodes(cast, config):
                played.append(episode)
                progress.advance(1, reward=sum(episode.rewards))
        mean = float(np.mean([sum(episode.rewards) for episode in played]))
        _write(config, cast, played, mean)
        cast.env.close()
    steps = sum(len(episode.rewards) for episode in played)
    return f"{len(played)} episodes, {steps} steps, mean return {mean:.4f} nats: {config.name}"


def cast_of(config: RecordConfig) -> Cast:
    """The environment that is recorded, and who plays it.

    Raises:
        InputError: No such controller, route table or router.
    """
    if config.env == "route":
        return cast_of_routes(config)
    controller = controllers.make(config.expert)
    settings = config.environment(controller.signals)
    return cast_of_edits(gym.make(RECORDED[config.env], **settings.kwargs()), controller, asdict(settings))


def episodes(cast: Cast, config: RecordConfig) -> Iterator[Played]:
    """Play episodes, one for each seed from the first on."""
    for seed in range(config.seed, config.seed + config.episodes):
        cast.start(seed)
        yield _play(cast, _policy(cast, config.quality, np.random.default_rng(seed)), seed)


def _policy(cast: Cast, quality: str, random: np.random.Generator) -> Policy:
    if quality == "mixed":
        return lambda observation: (cast.expert if random.random() < 0.5 else cast.by_chance)(observation)
    return cast.expert if quality == "expert" else cast.by_chance


def _play(cast: Cast, policy: Policy, seed: int) -> Played:
    observation, info = cast.env.reset(seed=seed)
    seen: dict[str, list[np.ndarray]] = {name: [values] for name, values in observation.items()}
    infos = {name: [float(info[name])] for name in cast.numbers} | {name: [np.nan] for name in cast.last_numbers}
    actions, rewards, over = [], [], False
    while not over:
        action = policy(observation)
        observation, reward, terminated, truncated, info = cast.env.step(action)
        over = terminated or truncated
        actions.append(np.asarray(action, dtype=cast.env.action_space.dtype))
        rewards.append(float(reward))
        for name, values in observation.items():
            seen[name].append(values)
        for name in infos:
            infos[name].append(float(info[name]) if over or name in cast.numbers else np.nan)
    return Played(seed, seen, actions, rewards, infos)


def _write(config: RecordConfig, cast: Cast, played: list[Played], mean: float) -> None:
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
        env=cast.env,
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
                "settings": cast.settings,
            }
        }
    )
