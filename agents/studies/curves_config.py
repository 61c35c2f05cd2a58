"""Arguments of the study of learning curves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from plasticity_env.agents.training.agent import find_agent
from plasticity_env.common.arguments import check_counts, flags, given
from plasticity_env.common.cli import words
from plasticity_env.common.errors import InputError, unknown
from plasticity_env.envs.settings import MEASURING_ARGUMENTS, Settings


@dataclass(frozen=True)
class CurvesConfig:
    """Arguments of the study."""

    agents: str = "ppo,ppo:attention,ppo:linear,sb3_ppo,sb3_maskable_ppo,es,rllib_ppo"
    """agents, separated by commas; after a colon the network: deep_sets (the default), attention or linear"""
    total_timesteps: int = 20_000
    """environment steps of each training, including those of reference rules"""
    evaluate_every: int = 2_000
    """steps between evaluations"""
    seeds: int = 3
    """trainings of each agent"""
    first_seed: int = 0
    """seed of the first training; other seeds can run elsewhere, and all cells can be joined in one file"""
    rounds: int = 4
    """decisions per episode"""
    pruned_share: str = "0.1,0.6"
    """range of the share of heads to prune"""
    reference: str = "fisher"
    """rule whose rise of the loss is the unit"""
    held_out: int = 12
    """scenarios of an evaluation, their shares spread over the range"""
    settings: Annotated[Settings, flags(Settings, "model_name", "reward_blocks", *MEASURING_ARGUMENTS)] = Settings(
        calibration_blocks=4, reward_blocks=4, max_length=64, device="auto"
    )
    """arguments of the environments"""
    output_dir: Path = Path("runs/learning_curves")
    """output folder; a study in it is continued"""

    def __post_init__(self) -> None:
        check_counts(self, total_timesteps=1, evaluate_every=1, seeds=1, rounds=1, held_out=1)
        if not words(self.agents):
            raise InputError("agents is empty: name at least one")
        if given(self, "agents"):
            self._check_agents()

    def _check_agents(self) -> None:
        from plasticity_env.controllers.network import CONTEXTS

        for agent in words(self.agents):
            name, _, context = agent.partition(":")
            record = find_agent(name)
            if context and not record.network:
                raise InputError(f"agent {agent!r}: {name} has a network of its own, write {name}")
            if context not in ("", *CONTEXTS):
                raise unknown("network", context, CONTEXTS)
