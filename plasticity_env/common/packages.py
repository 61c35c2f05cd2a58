"""Packages that come with an extra of this one, and may be missing."""

from __future__ import annotations

import importlib.util

from plasticity_env.common.errors import InputError

EXTRAS = {  # extra -> what it installs, by the names that are imported
    "rl": ("sb3_contrib", "cma"),
    "track": ("tensorboard",),
    "human": ("pygame",),
    "ray": ("ray.rllib",),
    "bench": ("torch_pruning",),
    "serve": ("fastapi", "uvicorn"),
    "dynamic": ("sklearn",),
    "offline": ("minari",),
    "tune": ("optuna",),
}


def missing(package: str, extra: str) -> str | None:
    """The sentence for a package that is not installed; None where it is.

    Args:
        package: Name to import, dots included.
        extra: Extra of this package that installs it.
    """
    try:
        found = importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        found = False
    return None if found else f"{package.replace('_', '-')} is not installed: pip install 'plasticity-env[{extra}]'"


def require(package: str, extra: str) -> None:
    """Refuse to go on without a package.

    Raises:
        InputError: The package is not installed.
    """
    sentence = missing(package, extra)
    if sentence is not None:
        raise InputError(sentence)
