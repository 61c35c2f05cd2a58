"""Files: where the package keeps its own, and writing so that a crash in the middle loses nothing."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from plasticity_env.common.errors import InputError

ZOO_FOLDER = Path(__file__).resolve().parents[1] / "zoo"
"""Texts (`text/`) and models (`models/`) that come with the package."""
_FULL = (
    "No space left",
    "os error 28",
    "PytorchStreamWriter failed writing",
    "unexpected pos",
)  # a full disk, in words


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it into place.

    Raises:
        OSError: Nothing can be written there, or the disk is full; what was there before is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            write(temporary)
        except Exception as error:  # torch and safetensors have errors of their own for a full disk
            if isinstance(error, OSError) or not any(sign in str(error) for sign in _FULL):
                raise
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


@contextmanager
def new_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """A temporary folder that becomes ``path`` when the block ends well; when it fails, nothing has changed.

    A folder that is replaced lies beside it under a hidden name (``.<name>...old``) for the moment of the two renames.

    Args:
        path: A folder that does not exist yet, or an empty one.
        replace: Take the place of a folder that is there.

    Raises:
        InputError: Something is there already.
        OSError: Nothing can be written there.
    """
    path = path.absolute()
    there = path.exists() and (not path.is_dir() or any(path.iterdir()))
    if there and not (replace and path.is_dir()):
        raise InputError(f"{str(path)!r} exists already and is not an empty folder: choose another one")
    made = [parent for parent in path.parents if not parent.exists()]
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    former = temporary.with_suffix(".old")
    try:
        try:
            temporary.mkdir(parents=True)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
        yield temporary
        if there:
            os.replace(path, former)
            os.replace(temporary, path)
            shutil.rmtree(former)
        else:
            os.replace(temporary, path)
    except BaseException:
        if former.exists() and not path.exists():
            os.replace(former, path)
        shutil.rmtree(temporary, ignore_errors=True)
        for parent in made:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        raise
