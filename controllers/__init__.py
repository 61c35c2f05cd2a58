"""Who decides: rules, scores and the network. Controllers read observations, never the model.

>>> from plasticity_env import controllers
>>> controllers.make("fisher", sparsity=0.3)
>>> controllers.load("runs/my_run/controller")
"""

from __future__ import annotations

if __name__ != "plasticity_env.controllers":
    raise ImportError(
        "controllers is imported as plasticity_env.controllers: that is its only name, in a checkout and installed"
    )

from pathlib import Path
from typing import Any

from plasticity_env.common.errors import InputError, unknown
from plasticity_env.controllers.ann import ANNController
from plasticity_env.controllers.base import (
    ConstantEdit,
    Controller,
    KeepAll,
    RankedController,
    flat_mask,
    sample_mask,
)
from plasticity_env.controllers.network import HeadNetwork, NetworkConfig
from plasticity_env.controllers.rules import PlasticityController
from plasticity_env.controllers.scores import SCORES, ScoreController
from plasticity_env.controllers.shipped import DEFAULT, UNTRAINED, shipped, shipped_folder
from plasticity_env.controllers.tuned_rule import NAME as TUNED
from plasticity_env.controllers.tuned_rule import make_tuned

__all__ = [
    "SCORES",
    "ANNController",
    "ConstantEdit",
    "Controller",
    "HeadNetwork",
    "KeepAll",
    "NetworkConfig",
    "PlasticityController",
    "RankedController",
    "ScoreController",
    "flat_mask",
    "load",
    "make",
    "names",
    "sample_mask",
    "shipped",
    "shipped_folder",
]


def names() -> list[str]:
    """Names that `make` knows."""
    return sorted(["keep_all", "constant", "plasticity", TUNED, "ann", *SCORES])


def make(name: str, **options: Any) -> Controller:
    """Build a controller by name.

    Args:
        name: One of `names()`, ``ann:NAME`` for another of the `shipped()` controllers, ``ann:untrained`` for a fresh network,
            ``constant:EDIT``, or the folder of a saved controller.
        **options: Of its class: ``sparsity`` and ``rounds`` for scores, thresholds for ``plasticity`` and
            ``plasticity_tuned``, ``path`` for ``ann`` (the shipped controller without it), ``edit`` for ``constant``.

    Raises:
        InputError: Unknown name or option.
    """
    try:
        if name in SCORES:
            return ScoreController(name, **options)
        if name == "keep_all":
            return KeepAll(**options)
        if name.partition(":")[0] == "constant":
            return ConstantEdit(**({"edit": name[9:]} if name[9:] else {}), **options)
        if name == "plasticity":
            return PlasticityController(**options)
        if name == TUNED:
            return make_tuned(**options)
        if name == f"ann:{UNTRAINED}" or (name == "ann" and "network" in options):
            return ANNController(**options)
        if name == "ann" or name.startswith("ann:"):
            path = options.pop("path", None)
            return load(shipped_folder(name[4:] or DEFAULT) if path is None else path, **options)
    except TypeError as error:
        raise InputError(f"controller {name!r} does not take these options ({error})") from error
    if Path(name).is_dir():
        return load(name, **options)
    raise unknown("controller", name, names(), ", or the folder of a saved controller")


def load(path: str | Path, **options: Any) -> ANNController:
    """Read a saved `ANNController`.

    Raises:
        InputError: No controller there, or of another shape.
    """
    return ANNController.load(path, **options)
