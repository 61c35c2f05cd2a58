"""Arguments of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from plasticity_env.agents.ppo.ppo_config import PPOConfig
from plasticity_env.agents.ppo.rank_config import RankConfig, modes_of
from plasticity_env.agents.training.agent import AGENTS, ENVIRONMENTS, SPECIAL, find_agent
from plasticity_env.common.arguments import check_counts, flags
from plasticity_env.common.cli import words
from plasticity_env.common.errors import InputError, unknown
from plasticity_env.common.tracking import TrackingOptions
from plasticity_env.common.wandb_run import check_mode
from plasticity_env.envs.settings import Settings

if TYPE_CHECKING:
    from plasticity_env.agents.ppo.scenarios import Stage
    from plasticity_env.controllers.network import HeadNetwork

SIGNAL_SETTINGS = ("obs_signal", "residual_signal", "crossfit_signal")


@dataclass(frozen=True)
class TrainConfig:
    """Arguments of a training run."""

    agent: str = "ppo"
    """ppo (our own), sb3_ppo, sb3_maskable_ppo, rllib_ppo (Ray), es (CMA-ES), or one that was registered"""
    env: str = "heads"
    """heads (all heads at once), head_edit (one edit per step) or head_rank (a score for every head)"""
    model_name: str = "bard-gpt2-4x4"
    """language models to train on, separated by commas: embedded names, folders, GGUF files or hub names"""
    mode: str = "adaptive"
    """adaptive (prune, revive, grow) or compressed (prune permanently); HeadRank: or both, separated by a comma"""
    settings: Annotated[
        Settings,
        flags(
            Settings,
            hidden=("model_name", "mode", "pruned_share", "observation", "signals", "device"),
            train_rate="learning_rate",
        ),
    ] = Settings(horizon=4, calibration_blocks=8, reward_blocks=8)
    """arguments of the environments; HeadRank has --rounds instead of --horizon"""
    envs_per_model: int = 4
    """environments over each language model"""
    capacity: int | None = None
    """head slots of a Stable-Baselines3 checkpoint; unset: the largest model's"""
    num_env_runners: int = 0
    """rllib_ppo: processes that the environments are spread over; 0: this process samples"""
    ray_address: str = "local"
    """rllib_ppo: local (processes of this machine), auto (the cluster that this machine belongs to) or HOST:PORT"""
    start_from: str | None = None
    """controller to train further: ann (the shipped one) or the folder of a saved one; unset: from zero"""
    ppo: PPOConfig = field(default_factory=PPOConfig)
    rank: RankConfig = field(default_factory=RankConfig)
    tracking: TrackingOptions = field(default_factory=TrackingOptions)
    output_dir: Path | None = None
    """run folder; unset: a new one under runs/"""
    resume: bool = False
    """continue from the checkpoint in --output_dir"""

    def __post_init__(self) -> None:
        agent = find_agent(self.agent)
        if self.env not in ENVIRONMENTS:
            raise unknown("environment", self.env, ENVIRONMENTS)
        check_counts(self, envs_per_model=1, num_env_runners=0)
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
        elif self.settings.train_steps:
            raise InputError(
                f"train_steps {self.settings.train_steps} needs --env heads or head_edit: HeadRank trains on frozen models"
            )
        check_mode(self.tracking.wandb_mode)
        if not words(self.model_name):
            raise InputError("model_name is empty: give at least one language model")
        if self.resume and self.output_dir is None:
            raise InputError("--resume needs --output_dir, the folder of the run to go on with")

    def signals(self) -> list[str]:
        """The settings whose signals its environments measure; cross-fitted scores come with the residual ones only."""
        off = set() if self.settings.residual_signal else {"crossfit_signal"}
        return [name for name in SIGNAL_SETTINGS if getattr(self.settings, name) and name not in off]

    def environment(self, model: str) -> Settings:
        """The settings of the environments over one of the models."""
        changes: dict[str, Any] = {"model_name": model, "mode": modes_of(self.mode)[0], "device": self.ppo.device}
        if self.env == "head_rank":
            changes |= {"horizon": max(self.rank.round_numbers), "pruned_share": self.rank.shares}
        return replace(self.settings, **changes)

    def stage(self) -> Stage:
        """The stage on which scenarios of HeadRank are drawn and played."""
        from plasticity_env.agents.ppo.scenarios import Stage

        models = words(self.model_name)
        return Stage(models, self.environment(models[0]), self.rank, modes_of(self.mode))

    def start_network(self) -> HeadNetwork | None:
        """The network to go on with; None to start with a fresh one.

        Raises:
            InputError: ``start_from`` names a controller that has none.
        """
        if self.start_from is None:
            return None
        from plasticity_env.controllers.ann import ANNController
        from plasticity_env.controllers.catalogue import make

        controller = make(self.start_from)
        if not isinstance(controller, ANNController):
            raise InputError(
                f"--start_from {self.start_from!r} has no network to train: give ann or a saved controller's folder"
            )
        return controller.network
