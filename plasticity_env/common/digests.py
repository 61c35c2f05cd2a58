"""Files that say whether they are still what was written: a manifest of digests in a folder, checksums in a torch archive."""

from __future__ import annotations

import hashlib
import json
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from plasticity_env.common.errors import InputError
from plasticity_env.common.files import write_text

MANIFEST = "digests.json"


def write_manifest(folder: Path, *patterns: str) -> None:
    """Write the SHA-256 digests of a folder's files into its ``digests.json``.

    Args:
        folder: Folder whose files are listed.
        *patterns: Names of the files, or glob patterns of them, that a change would make another thing of.
    """
    files = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    write_text(folder / MANIFEST, json.dumps({path.name: _digest(path) for path in files}, indent=1) + "\n")


@contextmanager
def checked_folder(folder: Path) -> Iterator[None]:
    """Read a folder whose files are what its digests say; of one without any, a warning says so once it is read.

    Files that the manifest does not name (a README that was added) are not looked at.

    Raises:
        InputError: If a file is missing or damaged (see `check_manifest`).
    """
    carries = check_manifest(folder)
    yield
    if not carries:
        warnings.warn(
            f"{str(folder)!r} carries no digests (an earlier version wrote it): only its values are checked",
            stacklevel=4,  # who called what reads the folder
        )


def check_manifest(folder: Path) -> bool:
    """Hold a folder's files against their digests; returns whether it carries any.

    Raises:
        InputError: A file is missing or differs from what was written, or the manifest is not one.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return False
    try:
        digests = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise InputError(f"{str(path)!r} is damaged: it is not a table of digests") from error
    for name, digest in digests.items():
        if plain_name(name) != name or not (folder / name).is_file() or _digest(folder / name) != digest:
            raise InputError(f"{name!r} in {str(folder)!r} is damaged: it is not what was written (its digest differs)")
    return True


def load_archive(path: Path, map_location: Any = "cpu") -> Any:
    """``torch.load(weights_only=True)`` of a file whose checksums hold: a flipped bit is an error, not another number.

    Raises:
        InputError: A checksum does not hold.
        Exception: What `torch.load` raises for a file that is no archive of its own, or holds code.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except zipfile.BadZipFile as error:
        raise InputError(f"{str(path)!r} is damaged, or not a file that torch.save wrote ({error})") from error
    if broken is not None:
        raise InputError(f"{str(path)!r} is damaged: the checksum of {broken!r} in it does not hold")
    return torch.load(path, weights_only=True, map_location=map_location)


def plain_name(name: object) -> str:
    """A name that stands in a file and becomes part of a path: letters, digits, ``.``, ``_`` and ``-``, no way out of a folder.

    Raises:
        InputError: If it is no plain name.
    """
    plain = isinstance(name, str) and name.strip(".") and all(letter.isalnum() or letter in "._-" for letter in name)
    if not plain:
        raise InputError(
            f"{name!r} is not a plain name: a file that names others may use letters, digits, '.', '_' and '-'"
        )
    return str(name)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
