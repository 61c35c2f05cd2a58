"""The classic rule with thresholds that were searched for: ``controllers.make("plasticity_tuned")``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from plasticity_env.common.errors import InputError
from plasticity_env.common.files import write_text
from plasticity_env.controllers.rules import PlasticityController

NAME = "plasticity_tuned"
FILE = Path(__file__).parent / "tuned" / "plasticity.json"
FORMAT = 1


def tuned_options(path: Path = FILE) -> dict[str, Any]:
    """Options of `PlasticityController` that a search wrote (see ``scripts/tune_plasticity.py``).

    Raises:
        InputError: No such file, or another content.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        options = dict(data["options"])
        if data["format"] != FORMAT:
            raise ValueError(f"format {data['format']!r}")
        PlasticityController(**options)
    except (OSError, ValueError, KeyError, TypeError, InputError) as error:
        raise InputError(
            f"{str(path)!r} holds no tuned thresholds ({error}): write them with scripts/tune_plasticity.py"
        ) from error
    return options


def make_tuned(**options: Any) -> PlasticityController:
    """The rule with the tuned thresholds; options that are given count instead."""
    rule = PlasticityController(**{**tuned_options(), **options})
    rule.name = NAME
    return rule


def save_tuned(path: Path, options: dict[str, Any], info: dict[str, Any]) -> None:
    """Write thresholds where `tuned_options` reads them.

    Args:
        path: JSON file.
        options: Options of `PlasticityController`.
        info: How they were found; for readers.
    """
    write_text(path, json.dumps({"format": FORMAT, "options": options, "info": info}, indent=1) + "\n")
