"""A W&B sweep: made from its file, and worked on here."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from plasticity_env.agents.training.train_config import TrainConfig
from plasticity_env.common.arguments import flat
from plasticity_env.common.errors import InputError, unknown
from plasticity_env.common.wandb_run import MODES, has_api_key


@dataclass(frozen=True)
class SweepConfig:
    """Arguments of a sweep."""

    file: Path = Path("scripts/configs/sweep.yaml")
    """YAML file that defines the sweep"""
    count: int = 10
    """number of trainings that this process runs"""
    sweep_id: str | None = None
    """join this sweep instead of making one"""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"count must be at least 1, got {self.count!r}")


def sweep(config: SweepConfig) -> str:
    """Make the sweep (or join one) and run some of its trainings, one after the other.

    Args:
        config: Arguments.

    Returns:
        The sweep's id.

    Raises:
        InputError: No file, one that trainings do not understand, no API key, or W&B refuses.
    """
    definition = read_sweep(config.file)
    mode = os.environ.get("WANDB_MODE", "online")
    if MODES.get(mode, mode) != "online":
        raise InputError(f"a sweep lives on the W&B server and WANDB_MODE is {mode!r}: unset it")
    if not has_api_key():
        raise InputError(
            "a sweep needs a W&B API key: run 'wandb login' or set WANDB_API_KEY; without one, "
            "train with scripts/train_controller.py"
        )
    import wandb

    project = definition.get("project", "plasticity-env")
    try:
        name = config.sweep_id or wandb.sweep(definition, project=project)
        wandb.agent(name, project=project, count=config.count)
    except (wandb.errors.Error, ValueError) as error:
        raise InputError(f"W&B did not run the sweep ({error}): check the key and the network") from error
    return str(name)


def read_sweep(path: Path) -> dict[str, Any]:
    """Read a sweep and check that trainings have its parameters.

    Raises:
        InputError: No such file, not a sweep, or a parameter that is no argument of a training.
    """
    if not path.is_file():
        raise InputError(f"no sweep at {str(path)!r}: give a YAML file such as scripts/configs/sweep.yaml")
    try:
        definition: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        parameters = dict(definition["parameters"])
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{str(path)!r} is not a sweep: it must hold a mapping with 'parameters'") from error
    known = flat(TrainConfig())
    for name in parameters:
        if name not in known:
            raise unknown(f"parameter in {str(path)!r}", name, known)
    return dict(definition)
