"""Things that come with the package and are asked for by name, where a folder of the user's own may be given too."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from plasticity_env.common.values import user_path


def folder_or_shipped(given: str | os.PathLike[str], what: str, shipped: Mapping[str, Path]) -> Path:
    """The folder that a user gives, or the one that comes with the package under this name.

    A folder that is there goes before what is shipped under the same name.

    Args:
        given: A folder, or a name.
        what: What it is, for the error.
        shipped: Folders of the package by name.

    Raises:
        InputError: Not a path.
    """
    path = user_path(given, what)
    return path if path.is_dir() else shipped.get(os.fspath(given), path)
