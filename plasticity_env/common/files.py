"""Files: where the package keeps its own, and writing so that a crash in the middle loses nothing."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from plasticity_env.common.errors import InputError

ZOO_FOLDER = Path(__file__).resolve().parents[1] / "zoo"
"""Texts (`text/`) and models (`models/`) that come with the package."""
LOCK = ".lock"  # in the folder of a run that is at work (`plasticity_env.common.at_work`)
_FULL = (
    "No space left",
    "os error 28",
    "PytorchStreamWriter failed writing",
    "unexpected pos",
)  # a full disk, in words
_LEFT = re.compile(r"\.(?P<name>.+)\.\d+\.[0-9a-f]{8}\.(?P<kind>tmp|old)")  # as `_beside` names them


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it into place; a link stays one, its target is replaced.

    Raises:
        OSError: Nothing can be written there, or the disk is full; it names ``path``, and what was there before is as it was.
    """
    place = _behind_links(path)
    temporary = _beside(place)
    with naming(path):
        place.parent.mkdir(parents=True, exist_ok=True)
    try:
        with naming(path, temporary):
            write(temporary)
            os.replace(temporary, place)
    finally:
        with suppress(OSError):  # a folder that has become read-only keeps it; the next run there clears it
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


class LineFile:
    """A file that grows by whole lines: what `write` was given is in the file when it returns, or none of it is.

    Args:
        path: Made if missing.

    Raises:
        OSError: Nothing can be written there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)

    def write(self, text: str) -> None:
        """Append text.

        Raises:
            OSError: The disk is full; it names the path.
        """
        size, data = os.fstat(self._file.fileno()).st_size, text.encode("utf-8")
        with naming(self.path):
            try:
                while data:
                    data = data[self._file.write(data) :]
            except OSError:
                with suppress(OSError):
                    self._file.truncate(size)
                raise

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._file.close()


@contextmanager
def new_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """A temporary folder that becomes ``path`` when the block ends well; when it fails, nothing has changed.

    A folder that is replaced lies beside it under a hidden name (``.<name>...old``) for the moment of the two renames. A link
    stays one: the folder behind it is replaced.

    Args:
        path: A folder that does not exist yet, or an empty one.
        replace: Take the place of a folder that is there.

    Raises:
        InputError: Something is there already.
        OSError: Nothing can be written there, or the disk is full; it names ``path``.
    """
    place = _behind_links(path).absolute()
    there = place.exists() and (not place.is_dir() or any(place.iterdir()))
    if there and not (replace and place.is_dir()):
        raise InputError(f"{str(place)!r} exists already and is not an empty folder: choose another one")
    made = [parent for parent in place.parents if not parent.exists()]
    temporary = _beside(place)
    former = temporary.with_suffix(".old")
    try:
        with naming(path):
            temporary.mkdir(parents=True)
        with naming(path, temporary):
            yield temporary
            if there:
                os.replace(place, former)
                os.replace(temporary, place)
            else:
                os.replace(temporary, place)
        if there:
            shutil.rmtree(former, ignore_errors=True)
    except BaseException:
        if former.exists() and not place.exists():
            os.replace(former, place)
        shutil.rmtree(temporary, ignore_errors=True)
        for parent in made:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        raise


def clear_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove what a killed process left half-written in a folder and the folders in it, and put back what it was replacing.

    Only whoever is alone at work there may do this (`plasticity_env.common.at_work`). Folders that are runs of their own (they
    hold a `LOCK`) are left alone.

    Args:
        folder: Folder to look in.
        name: Look only beside the file or folder of this name, and no deeper.
    """
    for top, folders, files in os.walk(folder):
        place = Path(top)
        if place != folder and LOCK in files:
            folders.clear()
            continue
        for entry in [*folders, *files]:
            left = _LEFT.fullmatch(entry)
            if left is None or name not in (None, left["name"]):
                continue
            if entry in folders:
                folders.remove(entry)
            if left["kind"] == "old" and not (place / left["name"]).exists():
                os.replace(place / entry, place / left["name"])
            elif (place / entry).is_dir():
                shutil.rmtree(place / entry, ignore_errors=True)
            else:
                (place / entry).unlink(missing_ok=True)
        if name is not None:
            return


@contextmanager
def naming(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Let errors of writing that arise in the block name ``path``; a library's own error for a full disk becomes an OSError.

    Args:
        path: What is written.
        temporary: File that is written for now; errors that name something else stay as they are. None: all are of ``path``.

    Raises:
        OSError: Nothing can be written there, or the disk is full.
    """
    try:
        yield
    except OSError as error:
        named = str(error.filename or "")
        if error.errno is None or (temporary is not None and named and not named.startswith(str(temporary))):
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
    except Exception as error:  # torch and safetensors have errors of their own
        if not any(sign in str(error) for sign in _FULL):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error


def _behind_links(path: Path) -> Path:
    """What a link points at, be it there or not; any other path as it is."""
    return path.resolve() if path.is_symlink() else path


def _beside(path: Path) -> Path:
    """A name beside ``path`` that nobody else takes and `clear_leftovers` knows."""
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
