"""An environment that is recorded, and who plays it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym

from plasticity_env.controllers.base import Action, Controller, sample_mask, wants_scores
from plasticity_env.envs.observation import Observation

Policy = Callable[[Any], Any]  # from an observation to an action
EDIT_NUMBERS = ("loss", "ppl", "flops", "params", "active_heads", "active_units", "invalid_actions")


@dataclass(frozen=True)
class Cast:
    """An environment and its players.

    Attributes:
        env: The environment.
        settings: Its arguments, JSON-able.
        expert, by_chance: Players.
        start: Called with the seed of each episode before its reset.
        numbers: Numbers of infos that are kept.
        last_numbers: Those that only the last info of an episode has; NaN before.
    """

    env: gym.Env[Any, Any]
    settings: dict[str, Any]
    expert: Policy
    by_chance: Policy
    start: Callable[[int], None]
    numbers: tuple[str, ...]
    last_numbers: tuple[str, ...] = ()


def cast_of_edits(env: gym.Env[Any, Any], controller: Controller, settings: dict[str, Any]) -> Cast:
    """A controller on Heads, HeadEdit or HeadRank, and chance among the allowed actions.

    Args:
        env: The environment.
        controller: The expert.
        settings: Arguments of the environment.
    """

    def by_chance(observation: Observation) -> Action:
        mask = None if wants_scores(observation) else sample_mask(observation)
        return env.action_space.sample(mask=mask)  # type: ignore[no-any-return]

    return Cast(env, settings, controller.act, by_chance, controller.reset, EDIT_NUMBERS)
