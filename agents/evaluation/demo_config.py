"""Arguments of the demo."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from plasticity_env.agents.evaluation.compare_config import CompareConfig
from plasticity_env.agents.training.train_config import TrainConfig


@dataclass(frozen=True)
class DemoConfig:
    """Arguments of the demo: those of the training and of the comparison, and where to write."""

    train: Annotated[TrainConfig, tyro.conf.Suppress] = field(default_factory=TrainConfig)
    """arguments of the training; given in the config file, section `train`"""
    compare: Annotated[CompareConfig, tyro.conf.Suppress] = field(default_factory=CompareConfig)
    """arguments of the comparison; given in the config file, section `compare`"""
    held_out_model: str = "bard-neox-5x6"
    """a model that the training never sees, on which controllers are compared as well; empty: none"""
    held_out: Annotated[CompareConfig, tyro.conf.Suppress] = field(
        default_factory=lambda: CompareConfig(controllers="")
    )
    """arguments of that comparison; given in the config file, section `held_out`; without controllers it equals `compare`"""
    held_out_units: Annotated[CompareConfig, tyro.conf.Suppress] = field(
        default_factory=lambda: CompareConfig(controllers="")
    )
    """arguments of a comparison on it over heads and MLP blocks; given in the config file, section `held_out_units`; without
    controllers it is left out"""
    from_scratch: bool = False
    """train a network from zero; otherwise train the shipped controller further"""
    scratch_timesteps: int = 6000
    """environment steps of a training from zero"""
    scratch_rate: float = 0.03
    """learning rate of a training from zero"""
    folder: Path | None = None
    """where everything goes; unset: a new folder under runs/"""

    def training(self) -> TrainConfig:
        """Arguments of the training that this demo runs."""
        if not self.from_scratch:
            return self.train if self.train.start_from else replace(self.train, start_from="ann")
        ppo = replace(self.train.ppo, total_timesteps=self.scratch_timesteps, learning_rate=self.scratch_rate)
        return replace(self.train, start_from=None, ppo=ppo)
