"""Arguments of a training run, and the environments that they name."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym

from plasticity_env import controllers
from plasticity_env.agents.ppo.ppo_config import PPOConfig
from plasticity_env.agents.ppo.scenario_env import RelativeRise
from plasticity_env.agents.ppo.scenarios import RankConfig, Stage, modes_of
from plasticity_env.agents.training.agent import AGENTS, ENVIRONMENTS, SPECIAL, find_agent
from plasticity_env.common.cli import words
from plasticity_env.common.errors import InputError, unknown
from plasticity_env.common.tracking import TrackingOptions, resolve_mode
from plasticity_env.controllers.ann import ANNController
from plasticity_env.controllers.network import HeadNetwork

SIGNAL_SETTINGS = ("obs_signal", "residual_signal", "crossfit_signal")
SETTINGS = (  # arguments that an environment takes under the same name
    *("dataset", "dataset_config", "mode", "reward", "horizon", "train_steps", "train_streams", "grow_warmup_steps"),
    *("growth_init", *SIGNAL_SETTINGS, "repair", "max_sparsity", "min_heads_per_layer", "units"),
    *("mlp_blocks", "neuron_order", "calibration_blocks", "reward_blocks", "batch_size", "max_length"),
)


@dataclass(frozen=True)
class TrainConfig:
    """Arguments of a training run."""

    agent: str = "ppo"
    """ppo (our own), sb3_ppo, sb3_maskable_ppo, rllib_ppo (Ray), es (CMA-ES), or one that was registered"""
    env: str = "heads"
    """heads (all heads at once), head_edit (one edit a step) or head_rank (a score for every head)"""
    model_name: str = "bard-gpt2-4x4"
    """language models to train on, separated by commas: embedded names, folders, GGUF files or hub names"""
    dataset: str = "shakespeare"
    """text: shakespeare, a path, or a hub data set"""
    dataset_config: str | None = None
    """configuration of a hub data set"""
    mode: str = "adaptive"
    """adaptive (prune, revive, grow) or compressed (prune for good); HeadRank: or both, separated by a comma"""
    reward: str = "ppl_per_flop"
    """name in the reward registry"""
    flop_price: tuple[float, float] = (1.0, 16.0)
    """range of FLOP prices, sampled log-uniformly at each reset"""
    horizon: int = 4
    """decisions an episode; HeadRank has --rounds"""
    train_steps: int = 0
    """fine-tuning steps of the language model between decisions"""
    train_rate: float = 3e-4
    """learning rate of those steps"""
    train_streams: int = 4
    """fixed streams of training text, each with its control arm, that episodes draw from"""
    grow_warmup_steps: int = 20
    """fine-tuning steps until a grown head's gate is 1"""
    growth_init: str = "random"
    """what a grown head starts from: random, copy or transfer"""
    obs_signal: bool = True
    """whether observations include the OBS score"""
    residual_signal: bool = True
    """whether observations include the residual scores"""
    crossfit_signal: bool = True
    """whether these include the cross-fitted ones"""
    repair: str = "least_squares"
    """none, bias, scale, least_squares, sequential or sequential_mlp; their controls end in _unweighted"""
    units: str = "heads"
    """what can be pruned: heads or heads+mlp"""
    mlp_blocks: int = 8
    """equal blocks of neurons in each MLP, with --units heads+mlp"""
    neuron_order: str = "stored"
    """order of a layer's neurons before they are cut: stored, token_fisher or kfac (dearest first)"""
    max_sparsity: float = 0.9
    """largest share of heads (of units) that may be pruned"""
    min_heads_per_layer: int = 0
    """fewest active heads of a layer"""
    calibration_blocks: int = 8
    """blocks that score and repair"""
    reward_blocks: int = 8
    """blocks that pay"""
    batch_size: int = 8
    """sequences in one pass"""
    max_length: int = 128
    """tokens a block"""
    envs_per_model: int = 4
    """environments over each language model"""
    capacity: int | None = None
    """head slots of a Stable-Baselines3 checkpoint; unset: the largest model's"""
    num_env_runners: int = 0
    """rllib_ppo: processes that the environments are spread over; 0 samples in this one"""
    ray_address: str = "local"
    """rllib_ppo: local (processes of this machine), auto (the cluster that this machine belongs to) or HOST:PORT"""
    start_from: str | None = None
    """controller to go on training: ann (the shipped one) or the folder of a saved one; unset: from zero"""
    ppo: PPOConfig = field(default_factory=PPOConfig)
    rank: RankConfig = field(default_factory=RankConfig)
    tracking: TrackingOptions = field(default_factory=TrackingOptions)
    output_dir: Path | None = None
    """run folder; unset: a new one under runs/"""
    resume: bool = False
    """go on from the checkpoint in --output_dir"""

    def __post_init__(self) -> None:
        agent = find_agent(self.agent)
        if self.env not in ENVIRONMENTS:
            raise unknown("environment", self.env, ENVIRONMENTS)
        if self.envs_per_model < 1:
            raise InputError(f"envs_per_model must be at least 1, got {self.envs_per_model}")
        if self.num_env_runners < 0:
            raise InputError(f"num_env_runners must be at least 0, got {self.num_env_runners}")
        for name in SPECIAL:
            if name not in agent.reads and getattr(self, name) != type(self).__dataclass_fields__[name].default:
                readers = [other.name for other in AGENTS.values() if name in other.reads]
                raise InputError(f"--{name} is for --agent {' or '.join(readers)}, not {agent.name}")
        if self.env not in agent.envs:
            others = [other.name for other in AGENTS.values() if self.env in other.envs]
            raise InputError(
                f"agent {agent.name} trains on --env {' or '.join(agent.envs)}, not {self.env}: for {self.env} use --agent "
                f"{' or '.join(others)}"
            )
        modes = modes_of(self.mode)
        if self.env != "head_rank":
            if len(modes) > 1:
                raise InputError(f"mode {self.mode!r}: several modes at once need --env head_rank")
            if self.ppo.context == "linear" and self.start_from is None:
                raise InputError(f"context 'linear' ranks heads: use it with --env head_rank, not {self.env}")
        elif self.train_steps:
            raise InputError(
                f"train_steps {self.train_steps} needs --env heads or head_edit: HeadRank trains on frozen models"
            )
        resolve_mode(self.tracking.wandb_mode)
        if not words(self.model_name):
            raise InputError("model_name is empty: give at least one language model")
        if self.resume and self.output_dir is None:
            raise InputError("--resume needs --output_dir, the folder of the run to go on with")

    def signals(self) -> list[str]:
        """The settings whose signals its environments measure; cross-fitted scores come with the residual ones only."""
        off = set() if self.residual_signal else {"crossfit_signal"}
        return [name for name in SIGNAL_SETTINGS if getattr(self, name) and name not in off]

    def environment_kwargs(self, model: str) -> dict[str, Any]:
        """Keyword arguments of the environment over one of the models."""
        values = {name: getattr(self, name) for name in SETTINGS}
        values.update(
            model_name=model, device=self.ppo.device, flop_price=list(self.flop_price), learning_rate=self.train_rate
        )
        if self.env == "head_rank":
            values.update(
                mode=modes_of(self.mode)[0], horizon=max(self.rank.round_numbers), pruned_share=list(self.rank.shares)
            )
        return values

    def to_json(self) -> dict[str, Any]:
        """Resolved arguments, JSON-able."""
        data = asdict(self)
        data["output_dir"] = None if self.output_dir is None else str(self.output_dir)
        data["flop_price"] = list(self.flop_price)
        return data

    def stage(self) -> Stage:
        """Where scenarios of HeadRank are drawn and played."""
        models = words(self.model_name)
        return Stage(models, self.environment_kwargs(models[0]), self.rank, modes_of(self.mode))

    def start_network(self) -> HeadNetwork | None:
        """The network to go on with; None to start with a fresh one.

        Raises:
            InputError: ``start_from`` names a controller that has none.
        """
        if self.start_from is None:
            return None
        controller = controllers.make(self.start_from)
        if not isinstance(controller, ANNController):
            raise InputError(
                f"--start_from {self.start_from!r} has no network to train: give ann or a saved controller's folder"
            )
        return controller.network


def make_environments(config: TrainConfig) -> list[gym.Env[Any, Any]]:
    """Build the environments of a run; those over one frozen model share its weights and memo."""
    envs: list[gym.Env[Any, Any]] = []
    for model in words(config.model_name):
        if config.env == "head_rank":
            envs += _ranking_environments(config, model)
            continue
        first = gym.make(ENVIRONMENTS[config.env], **config.environment_kwargs(model))
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
        return [gym.make(ENVIRONMENTS["head_rank"], **config.environment_kwargs(model))]
    first: dict[int, Any] = {}
    envs: list[gym.Env[Any, Any]] = []
    for index in range(config.envs_per_model):
        turn = index % len(turns)
        if turn in first:
            env: Any = first[turn].unwrapped.fork()
        else:
            first[turn] = env = gym.make(
                ENVIRONMENTS["head_rank"], **{**config.environment_kwargs(model), **turns[turn]}
            )
        envs.append(RelativeRise(env, config.rank.reference))
    return envs
