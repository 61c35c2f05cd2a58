"""Recipes: hyper-parameters in RL Zoo's format, as arguments of Stable-Baselines3."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from plasticity_env.common.errors import unknown

FOLDER = Path(__file__).parent / "recipes"
ALGORITHMS = ("ppo", "ppo_mask", "dqn")  # as RL Zoo names their files


@dataclass(frozen=True)
class Recipe:
    """One environment's entry in an algorithm's file.

    Attributes:
        algorithm, env_id: Algorithm and environment that it is for.
        n_envs: Environments side by side.
        n_timesteps: Environment steps in all.
        arguments: Arguments of the algorithm's class, its policy among them.
    """

    algorithm: str
    env_id: str
    n_envs: int
    n_timesteps: int
    arguments: dict[str, Any]


def recipes(algorithm: str) -> dict[str, Recipe]:
    """The recipes of an algorithm by id; an id that is not there has actions that it does not take.

    Raises:
        InputError: No such algorithm.
    """
    if algorithm not in ALGORITHMS:
        raise unknown("algorithm of a recipe", algorithm, ALGORITHMS)
    read = yaml.safe_load((FOLDER / f"{algorithm}.yml").read_text(encoding="utf-8"))
    return {env_id: _recipe(algorithm, env_id, dict(values)) for env_id, values in read.items()}


def find_recipe(algorithm: str, env_id: str) -> Recipe:
    """Find a recipe.

    Raises:
        InputError: No such algorithm, or one that does not take the actions of this id.
    """
    found = recipes(algorithm)
    if env_id not in found:
        raise unknown(f"id with a recipe for {algorithm}", env_id, found)
    return found[env_id]


def _recipe(algorithm: str, env_id: str, values: dict[str, Any]) -> Recipe:
    count, steps = int(values.pop("n_envs", 1)), int(values.pop("n_timesteps"))
    rate = values["learning_rate"]
    if isinstance(rate, str) and rate.startswith("lin_"):  # RL Zoo's name for a rate that falls to 0
        start = float(rate.removeprefix("lin_"))
        values["learning_rate"] = lambda left: start * left
    return Recipe(algorithm, env_id, count, steps, values)
