"""Trained controllers that come with the package: a folder each under ``pretrained/``, with weights, description and card."""

from __future__ import annotations

from pathlib import Path

from plasticity_env.common.errors import unknown
from plasticity_env.controllers.ann import CONFIG

DEFAULT = "ranker"  # what "ann" is
UNTRAINED = "untrained"
_FOLDER = Path(__file__).parent / "pretrained"


def shipped() -> list[str]:
    """Names of the controllers that the package ships; ``ann`` is the first."""
    found = sorted(path.parent.name for path in _FOLDER.glob(f"*/{CONFIG}"))
    return sorted(found, key=lambda name: name != DEFAULT)


def shipped_folder(name: str = DEFAULT) -> Path:
    """Where a shipped controller lies: ``controller.safetensors``, ``controller.json``, ``README.md``.

    Raises:
        InputError: None of this name is shipped.
    """
    if name not in shipped():
        raise unknown("shipped controller", name, [*shipped(), UNTRAINED])
    return _FOLDER / name
