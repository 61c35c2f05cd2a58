"""Modules of one's own that register signals, scores and the like in every command and worker process."""

from __future__ import annotations

import importlib
import os

from plasticity_env.common.errors import InputError, first_line

VARIABLE = "PLASTICITY_PLUGINS"

_failed: list[tuple[str, Exception]] = []


def load_plugins() -> None:
    """Import the modules, separated by commas, that the environment variable ``PLASTICITY_PLUGINS`` names.

    The first one that cannot be imported ends this; `check_plugins` then says so, where a caller or a command can be told.
    """
    _failed.clear()
    for name in filter(None, map(str.strip, os.environ.get(VARIABLE, "").split(","))):
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever the module does, its importer is told in a sentence
            _failed.append((name, error))
            return


def check_plugins() -> None:
    """Refuse to go on without a module that ``PLASTICITY_PLUGINS`` names.

    Raises:
        InputError: One of them could not be imported.
    """
    for name, error in _failed:
        raise InputError(
            f"{VARIABLE} names {name!r}, which cannot be imported ({type(error).__name__}: {first_line(error)}): put its "
            f"folder on PYTHONPATH, mend the module, or take it out of {VARIABLE}"
        ) from error
