"""Modules of one's own that register signals, scores and the like in every command and worker process."""

from __future__ import annotations

import importlib
import os

VARIABLE = "PLASTICITY_PLUGINS"


def load_plugins() -> None:
    """Import the modules, separated by commas, that the environment variable ``PLASTICITY_PLUGINS`` names.

    Raises:
        ImportError: One of them cannot be imported.
    """
    for name in filter(None, map(str.strip, os.environ.get(VARIABLE, "").split(","))):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ImportError(f"{VARIABLE} names {name!r}, which cannot be imported: {error}") from error
