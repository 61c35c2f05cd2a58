"""The learners of the agents that come with this package; libraries are imported when their agent is asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym

from plasticity_env.agents.ppo.ppo import PPO, Callback
from plasticity_env.agents.ppo.rank_config import modes_of
from plasticity_env.agents.ppo.rank_ppo import RankPPO
from plasticity_env.agents.ppo.scenario_env import RelativeRise
from plasticity_env.agents.training.agent import Learner
from plasticity_env.agents.training.train_config import TrainConfig
from plasticity_env.common.cli import words
from plasticity_env.common.errors import InputError
from plasticity_env.controllers.ann import ANNController

Envs = list[gym.Env[Any, Any]]


def native_ppo(config: TrainConfig, envs: Envs) -> Learner:
    """PPO of our own; on HeadRank over scenarios that groups play."""
    network = config.start_network()
    if config.env == "head_rank":
        return _resumable(RankPPO(config.stage(), config.ppo, network, config.output_dir), config)
    return _resumable(PPO(envs, config.ppo, config.output_dir, network=network), config)


def rllib_ppo(config: TrainConfig, envs: Envs) -> Learner:
    """RLlib's PPO, on env runners of this machine or of a cluster."""
    from plasticity_env.agents.rllib.ray_session import check_address
    from plasticity_env.agents.rllib.rllib import RLlibPPO

    check_address(config.ray_address)
    ppo = RLlibPPO(
        envs,
        config.ppo,
        capacity=config.capacity,
        runners=config.num_env_runners,
        address=config.ray_address,
        network=config.start_network(),
        folder=config.output_dir,
    )
    return replace(_resumable(ppo, config), reference_steps=lambda: ppo.reference_steps)


def _resumable(ppo: Any, config: TrainConfig) -> Learner:
    """The learner of an agent that keeps checkpoints."""
    if config.resume:
        ppo.resume()

    def learn(folder: Path, report: Callback) -> ANNController:
        ppo.folder, ppo.callback = folder, report
        controller: ANNController = ppo.train()
        return controller

    return Learner(ppo.global_step, learn, ppo.controller)


def sb3_ppo(config: TrainConfig, envs: Envs) -> Learner:
    """Stable-Baselines3's PPO."""
    return _stable_baselines(config, envs, maskable=False)


def sb3_maskable_ppo(config: TrainConfig, envs: Envs) -> Learner:
    """MaskablePPO of sb3-contrib."""
    return _stable_baselines(config, envs, maskable=True)


def _stable_baselines(config: TrainConfig, envs: Envs, maskable: bool) -> Learner:
    from plasticity_env.agents.sb3 import sb3

    algorithm = sb3.build(envs, config.ppo, config.capacity, maskable, config.start_network())

    def now() -> ANNController:
        info = {"agent": config.agent, "global_step": algorithm.num_timesteps, "seed": config.ppo.seed}
        return sb3.controller_of(algorithm, info)

    def learn(folder: Path, report: Callback) -> ANNController:
        algorithm.learn(config.ppo.total_timesteps, callback=sb3.Report(report))
        return now()

    def reference_steps() -> int:
        return sum(env.reference_steps for env in envs if isinstance(env, RelativeRise))

    return Learner(0, learn, now, reference_steps)


def es(config: TrainConfig, envs: Envs) -> Learner:
    """CMA-ES over the weights of a linear ranking; `scripts/train_es.py` has all its arguments."""
    from plasticity_env.agents.es import LinearSearch
    from plasticity_env.agents.es_config import FEATURES, ESConfig

    if modes_of(config.mode) != ["adaptive"] or config.start_from is not None:
        raise InputError("agent es searches from zero in mode adaptive: leave --mode and --start_from out")
    search_config = ESConfig(
        model_name=config.model_name,
        pruned_share=config.rank.shares,
        rounds=config.rank.round_numbers,
        features=tuple(words(config.ppo.head_features)) or FEATURES,
        reference=config.rank.reference,
        seed=config.ppo.seed,
        settings=replace(config.settings, device=config.ppo.device),
    )
    search = LinearSearch(search_config, config.output_dir or Path())
    if config.resume:
        search.resume()

    def learn(folder: Path, report: Callback) -> ANNController:
        search.folder = folder
        while search.steps < config.ppo.total_timesteps:
            metrics = search.advance()
            report(search.steps, metrics)
        return search.controller()

    return Learner(search.steps, learn, search.controller)
