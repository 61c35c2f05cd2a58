"""``plasticity doctor``: show what is installed, what this machine has, and where a W&B run would go."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from dataclasses import dataclass

from plasticity_env.agents.commands.command import Command
from plasticity_env.common.errors import InputError
from plasticity_env.common.packages import EXTRAS, missing

SHOWN = ("torch", "transformers", "datasets", "gymnasium", "stable-baselines3", "numpy", "wandb")


@dataclass(frozen=True)
class DoctorConfig:
    """No arguments."""


def main(config: DoctorConfig) -> None:
    """Print versions, devices, environment ids, embedded models, extras, and where a W&B run would go."""
    print("\n".join(report()))


def report() -> list[str]:
    """The lines that the command prints."""
    import gymnasium as gym
    import torch

    from plasticity_env.common.wandb_run import resolve_mode
    from plasticity_env.controllers.shipped import shipped
    from plasticity_env.model.embedded import embedded_models
    from plasticity_env.model.layout_table import known_layouts

    versions = [f"{name} {_version(name)}" for name in ("plasticity-env", *SHOWN)]
    devices = [f"cpu ({torch.get_num_threads()} threads)"]
    devices += [f"cuda:{index} ({torch.cuda.get_device_name(index)})" for index in range(torch.cuda.device_count())]
    ids = sorted(name for name in gym.registry if name.startswith("plasticity/"))
    extras = []
    for extra, packages in EXTRAS.items():
        absent = [package for package in packages if missing(package, extra)]
        extras.append(f"{extra} ({'no ' + ', '.join(absent) if absent else 'there'})")
    try:
        mode = resolve_mode(None)
    except InputError as error:
        mode = f"refused ({error})"
    return [
        f"versions: {', '.join(versions)}",
        f"python: {platform.python_version()} at {sys.executable}",
        f"devices: {', '.join(devices)}",
        f"environments: {', '.join(ids)}",
        f"embedded models: {', '.join(embedded_models())}",
        f"shipped controllers: {', '.join(shipped())}",
        f"architectures: {', '.join(known_layouts())}",
        f"extras: {', '.join(extras)}",
        f"Weights & Biases with --track: {mode}",
    ]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


COMMAND = Command("doctor", DoctorConfig, main)
