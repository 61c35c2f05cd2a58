"""Episodes as records that anyone can replay."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from plasticity_env.common.errors import InputError, first_line, unknown
from plasticity_env.common.files import write_text
from plasticity_env.common.values import user_path
from plasticity_env.envs.levels_settings import LevelsSettings
from plasticity_env.envs.route_settings import RouteSettings
from plasticity_env.envs.settings import Settings

NAMESPACE = "plasticity/"
OLDER = {"text_split": "leading"}  # of records that are older than the setting


@dataclass(frozen=True)
class EpisodeRecord:
    """One episode: environment, arguments, what reset drew, actions, and what they earned.

    Attributes:
        env_id: Gymnasium id.
        kwargs: Arguments of the environment, JSON-able.
        options: Reset options that reproduce the start.
        actions: One entry a step: an integer, or a tuple of integers (of floats, where scores are the action).
        rewards: One a step, nats.
    """

    env_id: str
    kwargs: dict[str, Any]
    options: dict[str, Any]
    actions: tuple[int | tuple[float, ...], ...]
    rewards: tuple[float, ...]

    def then(self, action: Any, reward: float) -> EpisodeRecord:
        """This record, one step longer."""
        array = np.asarray(action)
        plain = int(array) if array.ndim == 0 else tuple(array.tolist())
        return replace(self, actions=(*self.actions, plain), rewards=(*self.rewards, float(reward)))

    def save(self, path: str | Path) -> None:
        """Write as JSON."""
        write_text(user_path(path, "a record"), json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, path: str | Path) -> EpisodeRecord:
        """Read what `save` wrote.

        Raises:
            InputError: If it is no record.
        """
        path = user_path(path, "a record")
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            actions = tuple(tuple(a) if isinstance(a, list) else int(a) for a in data["actions"])
            rewards = tuple(float(reward) for reward in data["rewards"])
            record = cls(data["env_id"], dict(data["kwargs"]), dict(data["options"]), actions, rewards)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{str(path)!r} is not an episode record ({first_line(error)})") from error
        _check_id(record)
        return record


def _check_id(record: EpisodeRecord) -> None:
    """Refuse what is none of this package's environments: Gymnasium imports any module that an id names before a colon."""
    known = [name for name in gym.registry if name.startswith(NAMESPACE)]
    if record.env_id not in known:
        raise unknown("environment of a record", record.env_id, known)


def _arguments(record: EpisodeRecord) -> dict[str, Any]:
    """What the environment is made with; it has other arguments, which a record has no say in.

    Raises:
        InputError: A setting that cannot be used, or a table that did not come with the package.
    """
    if record.env_id not in ("plasticity/Route-v0", "plasticity/FlatRoute-v0"):
        levels = record.env_id in ("plasticity/Levels-v0", "plasticity/FlatLevels-v0")
        (LevelsSettings if levels else Settings).read(record.kwargs)
        return {**OLDER, **record.kwargs}
    if "table" in record.kwargs:
        raise InputError(
            "the record was played on a route table of the player's own: pass an environment with it, validate(record, env=...)"
        )
    RouteSettings.read(record.kwargs)
    return record.kwargs


def validate(record: EpisodeRecord, rel_tol: float = 1e-5, env: gym.Env[Any, Any] | None = None) -> tuple[float, ...]:
    """Replay a record and compare every reward.

    Args:
        record: Record to replay.
        rel_tol: Relative tolerance, of the largest absolute reward of the replayed episode.
        env: An environment to replay in; a fresh one from the record's arguments when None.

    Returns:
        The replayed rewards.

    Raises:
        InputError: A reward differs (the sentence names the step and both figures) or is not finite, or there is not one for
            every action.
    """
    if len(record.rewards) != len(record.actions):
        raise InputError(
            f"the record holds {len(record.actions)} actions and {len(record.rewards)} rewards: it needs one reward an action"
        )
    if env is None:
        _check_id(record)
        env = gym.make(record.env_id, **_arguments(record))
    env.reset(seed=0, options=record.options)
    rewards = []
    for action in record.actions:
        _, reward, _, _, _ = env.step(action if isinstance(action, int) else np.array(action))
        rewards.append(float(reward))
    scale = max([abs(reward) for reward in rewards], default=0.0)
    for step, (claimed, found) in enumerate(zip(record.rewards, rewards, strict=True)):
        if not abs(claimed - found) <= rel_tol * max(scale, 1e-3):  # nor what is not a number
            raise InputError(
                f"step {step} of the record claims a reward of {claimed:.8g}, its replay earns {found:.8g}"
            )
    return tuple(rewards)
