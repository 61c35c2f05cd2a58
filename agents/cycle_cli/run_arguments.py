"""The arguments of a plasticity cycle from the command line, as a run and stage by stage."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from plasticity_env.common.errors import InputError
from plasticity_env.cycle.run_settings import ExperimentSettings
from plasticity_env.steps.step_arguments import with_text

STRATEGIES = "entropy,gradient,magnitude,random,combined,fisher,controller"
QUICK = {
    "model_name": "bard-gpt2-6x8",
    "dataset": "shakespeare",
    "pruning_strategy": "residual_stepwise",
    "pruning_level": 0.2,
    "mlp_blocks": 8,
    "repair": "least_squares",
    "growth_init": "revive",
    "batch_size": 4,
    "max_length": 128,
    "warmup_steps": 20,
    "stabilisation_window": 5,
    "training_steps": 15,
    "analysis_steps": 16,
    "cycles": 2,
    "growth_warmup_steps": 8,
    "reward_blocks": 16,
    "test_blocks": 16,
    "sample_tokens": 24,
    "min_zeroed_epochs": 0,  # two cycles are two decisions: what the first prunes may come back in the second
}


@dataclass(frozen=True)
class RunArguments(ExperimentSettings):
    """Arguments of a run of the plasticity cycle."""

    model_name: str = "distilgpt2"
    dataset: str = ""
    """text: shakespeare (tiny_shakespeare is the same), a path, or a hub data set; unset: shakespeare for an embedded model
    and wikitext for any other"""
    dataset_config: str | None = None
    """configuration of a hub data set; unset with wikitext: wikitext-2-raw-v1"""
    growth_init: str = "revive"
    """what a head that comes back starts from: revive (the weights that it had, its gate open at once), random, copy or transfer
    (new weights behind a gate that opens slowly), lemon or gradmax (new weights that leave the model's function as it is)"""
    save_model: bool = True
    """keep the final model as a checkpoint under models/"""
    quick_test: bool = False
    """other defaults: an embedded model and few steps, under a minute; flags that are given still count"""
    compare_strategies: bool = False
    """run all strategies from one warm-up, with one control arm, and write a table and a chart"""
    strategies: str = STRATEGIES
    """with --compare_strategies: which, separated by commas"""
    output_dir: Path | None = None
    """a new folder; unset: runs/neural_plasticity/run_YYYYMMDD_HHMMSS"""
    resume: Path | None = None
    """continue the run (or comparison) in this folder; all other flags of the experiment are read from it"""

    def settings(self) -> ExperimentSettings:
        """The experiment's part, with the text filled in where none was named.

        Raises:
            InputError: A value that cannot be used.
        """
        values: dict[str, Any] = {entry.name: getattr(self, entry.name) for entry in fields(ExperimentSettings)}
        return with_text(ExperimentSettings(**values), self.model_name)


@dataclass(frozen=True)
class StageArguments(RunArguments):
    """Arguments of a plasticity cycle that is told stage by stage."""

    dataset: str = "tiny_shakespeare"
    """text: tiny_shakespeare (embedded), a path, or a hub data set"""
    initial_pruning: float = 0.3
    """share of all head slots that is pruned when a cycle's pruning is over, in [0, 1)"""
    pruning_level: Annotated[float, tyro.conf.Suppress] = 0.0
    """the value of initial_pruning"""
    compare_strategies: Annotated[bool, tyro.conf.Suppress] = False
    """of run_neural_plasticity.py"""
    strategies: Annotated[str, tyro.conf.Suppress] = ""
    """of run_neural_plasticity.py"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.initial_pruning < 1:
            raise InputError(
                f"initial_pruning must lie in [0, 1), got {self.initial_pruning!r}: 0.3 prunes three heads in ten"
            )

    def settings(self) -> ExperimentSettings:
        return replace(super().settings(), pruning_level=self.initial_pruning)
