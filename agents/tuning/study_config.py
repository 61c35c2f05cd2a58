"""Arguments of an Optuna study."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from plasticity_env.agents.training.agent import ENVIRONMENTS, find_agent
from plasticity_env.common.arguments import check_counts
from plasticity_env.common.errors import InputError, unknown
from plasticity_env.common.tracking import TrackingOptions
from plasticity_env.common.wandb_run import check_mode


@dataclass(frozen=True)
class StudyConfig:
    """Arguments of an Optuna study."""

    agent: str = "ppo"
    """ppo, sb3_ppo or sb3_maskable_ppo"""
    env: str = "heads"
    """heads, head_edit or head_rank"""
    trials: int = 20
    """trials that the study has in the end, pruned ones included; a second run goes on to this number"""
    train: Path | None = None
    """YAML file of a training, as plasticity train takes it: what all trials share"""
    total_timesteps: int = 512
    """environment steps of one trial"""
    warmup_trials: int = 5
    """trials that are never pruned; the pruner ends later ones that lag behind the median"""
    seed: int = 1
    """seed of the sampler and of every training"""
    output_dir: Path = Path("runs/tune")
    """folder of the study: study.db (SQLite), best.yaml, study.png, and a run folder for each trial under trials/"""
    tracking: TrackingOptions = field(default_factory=TrackingOptions)

    def __post_init__(self) -> None:
        if self.agent not in TUNED:
            raise unknown("agent to tune", self.agent, TUNED)
        if self.env not in ENVIRONMENTS:
            raise unknown("environment", self.env, ENVIRONMENTS)
        if self.env not in find_agent(self.agent).envs:
            takes = ", ".join(find_agent(self.agent).envs)
            raise InputError(f"agent {self.agent} does not train on {self.env}: it takes {takes}")
        check_mode(self.tracking.wandb_mode)
        check_counts(self, trials=1, total_timesteps=1, warmup_trials=0, seed=0)


TUNED = ("ppo", "sb3_ppo", "sb3_maskable_ppo")
