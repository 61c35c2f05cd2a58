"""The environments of a training run."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from plasticity_env.agents.ppo.rank_config import modes_of
from plasticity_env.agents.ppo.scenario_env import RelativeRise
from plasticity_env.agents.training.agent import ENVIRONMENTS, find_agent
from plasticity_env.agents.training.train_config import TrainConfig
from plasticity_env.common.cli import words


def make_environments(config: TrainConfig) -> list[gym.Env[Any, Any]]:
    """Build the environments of a run; those over one frozen model share its weights and memo."""
    envs: list[gym.Env[Any, Any]] = []
    for model in words(config.model_name):
        if config.env == "head_rank":
            envs += _ranking_environments(config, model)
            continue
        first = gym.make(ENVIRONMENTS[config.env], **config.environment(model).kwargs())
        envs.append(first)
        base = first.unwrapped
        for _ in range(config.envs_per_model - 1):
            envs.append(base.fork())  # type: ignore[attr-defined]
    return envs


def _ranking_environments(config: TrainConfig, model: str) -> list[gym.Env[Any, Any]]:
    """HeadRank environments whose rounds and modes take turns; one alone for agents that play scenarios of their own."""
    turns = [
        {"horizon": rounds, "mode": mode} for rounds in config.rank.round_numbers for mode in modes_of(config.mode)
    ]
    if find_agent(config.agent).scenarios:
        return [gym.make(ENVIRONMENTS["head_rank"], **config.environment(model).kwargs())]
    first: dict[int, Any] = {}
    envs: list[gym.Env[Any, Any]] = []
    for index in range(config.envs_per_model):
        turn = index % len(turns)
        if turn in first:
            env: Any = first[turn].unwrapped.fork()
        else:
            first[turn] = env = gym.make(
                ENVIRONMENTS["head_rank"], **{**config.environment(model).kwargs(), **turns[turn]}
            )
        envs.append(RelativeRise(env, config.rank.reference))
    return envs
