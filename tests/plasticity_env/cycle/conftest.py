"""Short experiments on an embedded model."""

from __future__ import annotations

from typing import Any

import pytest

from plasticity_env.common.tracking import TrackingOptions
from plasticity_env.cycle import ExperimentSettings, NeuralPlasticityExperiment

SHORT: dict[str, Any] = {
    "pruning_strategy": "fisher",
    "pruning_level": 0.25,
    "cycles": 1,
    "warmup_steps": 3,
    "training_steps": 3,
    "analysis_steps": 1,
    "batch_size": 4,
    "max_length": 32,
    "reward_blocks": 4,
    "test_blocks": 4,
    "growth_warmup_steps": 2,
    "sample_tokens": 0,
    "learning_rate": 1e-3,
    "tracking": TrackingOptions(tensorboard=False),
}


@pytest.fixture
def short():
    def make(**changes: Any) -> ExperimentSettings:
        return ExperimentSettings(**{**SHORT, **changes})

    return make


@pytest.fixture
def run_short(tmp_path, small_text, short):
    """Run an experiment in a folder of its own, without pages."""

    def run(name="run", decider=None, say=None, **changes):
        experiment = NeuralPlasticityExperiment(
            short(**changes), tmp_path / name, decider, say, text=small_text, progress=False, pages=False
        )
        return experiment.run()

    return run
