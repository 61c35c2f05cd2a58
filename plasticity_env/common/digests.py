"""Files that say whether they are still what was written.

A folder has a manifest of digests, a torch archive checksums, a JSON file from which a run goes on a digest of its own, and a
line of a file that grows a short check.
"""

from __future__ import annotations

import hashlib
import json
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from plasticity_env.common.errors import InputError, first_line
from plasticity_env.common.files import write_text

MANIFEST = "digests.json"
SEAL, CHECK = "digest", "check"  # entries of a JSON file, and of a JSON line, that say what the others are


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


def digest_of(values: dict[str, Any]) -> str:
    """SHA-256 digest of what a JSON file's mapping says, however it is written."""
    return hashlib.sha256(_said(values)).hexdigest()


def sealed(values: dict[str, Any]) -> dict[str, Any]:
    """A JSON file's mapping with the digest of what it says, for `unsealed`."""
    return {**values, SEAL: digest_of(values)}


def unsealed(values: dict[str, Any], where: Path) -> dict[str, Any]:
    """The mapping of a JSON file without its digest, which is checked as `check_digest` does.

    Raises:
        InputError: The file does not say what was written.
    """
    said = {name: value for name, value in values.items() if name != SEAL}
    check_digest(said, values.get(SEAL), where)
    return said


def check_digest(values: dict[str, Any], digest: object, where: Path) -> None:
    """Hold what a JSON file says against its digest; where it has none (None), a warning says so.

    Raises:
        InputError: It does not say what was written.
    """
    if digest is None:
        said = f"{str(where)!r} carries no digest (an earlier version wrote it): only its values are checked"
        warnings.warn(said, stacklevel=1)  # from one place, so that Python says it once a file
    elif digest != digest_of(values):
        raise InputError(f"{str(where)!r} is damaged: it is not what was written (its digest differs)")


def checked_line(values: dict[str, Any]) -> str:
    """A mapping as a line of JSON that says what it was, for `line_values`."""
    return json.dumps({**values, CHECK: f"{zlib.crc32(_said(values)):08x}"})


def line_values(line: str | bytes) -> dict[str, Any]:
    """The mapping of a line of JSON; one without a check is of an earlier version, and taken as it is.

    Raises:
        ValueError: The line is no JSON object, or not what was written.
    """
    values = json.loads(line)
    if not isinstance(values, dict):
        raise ValueError(f"a {type(values).__name__} and no object")
    check = values.pop(CHECK, None)
    if check is not None and check != f"{zlib.crc32(_said(values)):08x}":
        raise ValueError("it is damaged: its check differs")
    return values


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The mappings of a file of JSON lines; see `rows_of`."""
    return rows_of(path.read_text(encoding="utf-8", errors="replace").splitlines(), path)


def rows_of(lines: Sequence[str], path: Path) -> list[dict[str, Any]]:
    """The mappings of JSON lines, each held against its check; lines of an earlier version have none, and a warning says so.

    Args:
        lines: The lines.
        path: The file that they stand in, for the error.

    Raises:
        InputError: A line is no JSON object, or not what was written.
    """
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(line_values(line))
        except ValueError as error:
            raise InputError(f"line {number} of {str(path)!r} is no row of a run ({first_line(error, 80)})") from error
    warn_of_unchecked(lines, path)
    return rows


def warn_of_unchecked(lines: Sequence[str], path: Path) -> None:
    """Say in one line that some lines of a file carry no check, where that is so."""
    if bare := sum(f'"{CHECK}": "' not in line for line in lines):
        said = f"{bare} of {len(lines)} lines of {str(path)!r} carry no check (an earlier version wrote them)"
        warnings.warn(f"{said}: only their values are checked", stacklevel=1)  # from one place: once a file


def _said(values: dict[str, Any]) -> bytes:
    """What a mapping says once it was a file: the same bytes before it is written and after it is read."""
    return json.dumps(json.loads(json.dumps(values)), sort_keys=True).encode()


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
    import torch  # not for those who read JSON alone

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
