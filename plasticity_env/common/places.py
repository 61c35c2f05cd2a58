"""Places to write to, tried before the work that would fill them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from plasticity_env.common.errors import InputError


def check_place(path: Path, folder: bool, name: str = "") -> None:
    """Try to write where something is to go; nothing is left there.

    Args:
        path: A folder or a file, there or not.
        folder: Whether it is a folder.
        name: The argument that named it, for the error.

    Raises:
        InputError: A folder that is a file or lies in one, or a file that is a folder.
        OSError: Nothing can be written there.
    """
    said = f"{name} {str(path)!r}".strip()
    if not folder and path.is_dir():
        raise InputError(f"{said} is a folder: name a file")
    parents = path.absolute().parents
    for place in (path, *parents) if folder else parents:
        if place.exists() and not place.is_dir():
            shown = (
                path if place == path else place.relative_to(Path.cwd()) if place.is_relative_to(Path.cwd()) else place
            )
            raise InputError(f"{said}: {str(shown)!r} is a file, not a folder: choose another place")
    nearest = next(place for place in ((path, *parents) if folder else parents) if place.is_dir())
    try:
        tempfile.TemporaryFile(dir=nearest).close()
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or 0), str(path)) from error
