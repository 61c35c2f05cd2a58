"""Trained controllers that come with the package: a folder each under ``pretrained/``, with weights, description and card."""

from __future__ import annotations

from pathlib import Path

from plasticity_env.common.errors import InputError, unknown

DEFAULT = "ranker"  # what "ann" is
UNITS = "units"  # where MLP blocks are units beside the heads
UNTRAINED = "untrained"
LAB = "docs/lab/controllers"  # of the repository: networks that an experiment made and that no longer ship
FORMER = ("cma_es", "crossfit", "in_sample", "tokens", "units_in_sample", "units_ordered")
_FOLDER = Path(__file__).parent / "pretrained"


def shipped() -> list[str]:
    """Names of the controllers that the package ships; ``ann`` is the first."""
    found = sorted(path.parent.name for path in _FOLDER.glob("*/controller.json"))
    return sorted(found, key=lambda name: name != DEFAULT)


def shipped_folder(name: str = DEFAULT) -> Path:
    """The folder of a shipped controller: ``controller.safetensors``, ``controller.json``, ``README.md``.

    Raises:
        InputError: No controller of this name ships.
    """
    if name in FORMER:
        raise InputError(f"controller 'ann:{name}' no longer ships: give its folder in the repository, {LAB}/{name}")
    if name not in shipped():
        raise unknown("shipped controller", name, [*shipped(), UNTRAINED])
    return _FOLDER / name
