"""Controllers by name: the package's own, scores, saved ones, and those that a user registers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from plasticity_env.common.errors import InputError, unknown
from plasticity_env.common.registries import Registry
from plasticity_env.common.values import check_text, user_path
from plasticity_env.controllers.ann import ANNController
from plasticity_env.controllers.base import ConstantEdit, Controller, KeepAll
from plasticity_env.controllers.rules import PlasticityController
from plasticity_env.controllers.score_controller import ScoreController
from plasticity_env.controllers.shipped import DEFAULT, UNTRAINED, shipped_folder
from plasticity_env.controllers.tuned_rule import NAME as TUNED
from plasticity_env.controllers.tuned_rule import make_tuned
from plasticity_env.signals.scores import SCORES


def _ann(option: str = "", **options: Any) -> Controller:
    """A shipped network by name, an untrained one, one at a path, or one that is handed in."""
    if option == UNTRAINED or (not option and "network" in options):
        return ANNController(**options)
    path = options.pop("path", None)
    return load(shipped_folder(option or DEFAULT) if path is None else path, **options)


def _hub(option: str = "", **options: Any) -> Controller:
    """A network from the hub, ``hub:USER/NAME``."""
    if not option:
        raise InputError("controller 'hub' needs a name behind a colon: hub:USER/NAME")
    found: Controller = ANNController.from_pretrained(option, **options)
    return found


# name -> makes one of what stands behind a colon, if anything does, and of its options
CONTROLLERS: Registry[Callable[..., Controller]] = Registry(
    "controller",
    {
        "keep_all": KeepAll,
        "constant": ConstantEdit,
        "plasticity": PlasticityController,
        TUNED: make_tuned,
        "ann": _ann,
        "hub": _hub,
    },
)


def register(name: str, maker: Callable[..., Controller]) -> None:
    """Add a controller of your own: `make`, the commands and the leaderboard know it by name from here on.

    Args:
        name: A name without a colon.
        maker: Its class, or a function that makes one; called with the options that `make` is given. A controller that is to
            be played at a share of heads takes ``sparsity`` and ``rounds``, as `RankedController` does.

    Raises:
        InputError: The name is taken by the package.
    """
    if name in SCORES:
        raise InputError(f"controller {name!r} is a score: register yours under another name")
    CONTROLLERS.add(name, maker)


def names() -> list[str]:
    """Names that `make` knows."""
    return sorted({*CONTROLLERS, *SCORES})


def make(name: str, **options: Any) -> Controller:
    """Build a controller by name.

    Args:
        name: One of `names()`, ``ann:NAME`` for another of the `shipped()` controllers, ``ann:untrained`` for a fresh network,
            ``constant:EDIT``, ``hub:USER/NAME`` for one that was pushed to the Hugging Face hub, or the folder of a saved
            controller (or the ``controller.pt`` of an online run).
        **options: Options of its class: ``sparsity`` and ``rounds`` for scores, thresholds for ``plasticity`` and
            ``plasticity_tuned``, ``path`` for ``ann`` (the shipped controller without it), ``edit`` for ``constant``.

    Raises:
        InputError: Unknown name or option.
    """
    kind, _, option = check_text("controller", name).partition(":")
    try:
        if name in SCORES:
            return ScoreController(name, **options)
        if kind in CONTROLLERS:
            return CONTROLLERS[kind](*([option] if option else []), **options)
    except TypeError as error:
        raise InputError(f"controller {name!r} does not take these options ({error})") from error
    if (path := user_path(name)).is_dir() or (path.suffix in (".pt", ".pth") and path.is_file()):
        return load(name, **options)
    raise unknown("controller", name, names(), ", or the folder of a saved controller")


def load(path: str | Path, **options: Any) -> ANNController:
    """Read a saved `ANNController`.

    Raises:
        InputError: No controller there, or of another shape.
    """
    return ANNController.load(path, **options)
