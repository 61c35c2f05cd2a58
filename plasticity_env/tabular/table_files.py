"""How a table lies in a folder: Parquet files, ``table.json`` that says what they are, digests, and a card for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from plasticity_env.common.digests import check_manifest, write_manifest
from plasticity_env.common.errors import InputError, first_line
from plasticity_env.common.files import new_folder, replace_file, write_text
from plasticity_env.common.values import user_path

FORMAT = 1
DESCRIPTION = "table.json"
CARD = "README.md"


def write_table(folder: Path, parts: Mapping[str, pa.Table], description: Mapping[str, Any], card: str) -> None:
    """Write a table's folder, in the place of one that is there.

    Args:
        folder: Folder to write to.
        parts: Tables by name; each becomes ``NAME.parquet``.
        description: What the table is, as JSON: its kind and version, and where its rows come from.
        card: Text of its ``README.md``.

    Raises:
        InputError: If the folder holds something other than a table.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / DESCRIPTION).is_file():
        raise InputError(f"{str(folder)!r} holds something other than a table: name another folder")
    with new_folder(folder, replace=True) as place:
        for name, part in parts.items():
            write_part(place / f"{name}.parquet", part)
        rows = {name: part.num_rows for name, part in parts.items()}
        write_text(place / DESCRIPTION, json.dumps({"format": FORMAT, **description, "rows": rows}, indent=1) + "\n")
        write_text(place / CARD, card)
        write_manifest(place, "*.parquet", DESCRIPTION)


def write_part(path: Path, part: pa.Table) -> None:
    """Write one Parquet file, whole or not at all.

    Floats that change from row to row are split into their bytes first; strings that are all different name what they share
    with the one before.
    """
    encodings: dict[str, str] = {}
    for name in part.column_names:
        column = part[name]
        if pa.types.is_floating(column.type):
            encodings[name] = "BYTE_STREAM_SPLIT"
        elif pa.types.is_string(column.type) and len(column.unique()) == len(column):
            encodings[name] = "DELTA_BYTE_ARRAY"
    options: dict[str, Any] = {"use_dictionary": [name for name in part.column_names if name not in encodings]}
    if encodings:
        options["column_encoding"] = encodings
    replace_file(path, lambda place: pq.write_table(part, place, compression="zstd", compression_level=15, **options))


def read_part(path: Path) -> pa.Table:
    """Read one Parquet file.

    Raises:
        InputError: If it is no such file.
    """
    try:
        return pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{str(path)!r} is missing or no Parquet file ({first_line(error)})") from error


def open_folder(folder: str | Path, kind: str, parts: Sequence[str]) -> tuple[Path, dict[str, Any]]:
    """Check a table's folder.

    Args:
        folder: Folder that `write_table` left.
        kind: What it must hold: "cells" or "masks".
        parts: Names of its Parquet files, without their suffix.

    Returns:
        The folder, and its description.

    Raises:
        InputError: No table there, one of another kind or version, or files that were changed.
    """
    place = user_path(folder, "the folder of a table")
    way_out = "make one with 'plasticity tabular build' or 'plasticity tabular masks'"
    if not (place / DESCRIPTION).is_file():
        raise InputError(f"no table at {str(place)!r}: {way_out}")
    try:
        description = dict(json.loads((place / DESCRIPTION).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise InputError(f"{str(place / DESCRIPTION)!r} is damaged ({first_line(error)}): {way_out}") from error
    if description.get("format") != FORMAT:
        raise InputError(
            f"{str(place)!r} has table format {description.get('format')!r}, known is {FORMAT}: {way_out}, or use the version of "
            "plasticity-env that wrote it"
        )
    if description.get("kind") != kind:
        raise InputError(f"{str(place)!r} holds a table of {description.get('kind')!r}, not of {kind!r}")
    missing = [f"{name}.parquet" for name in parts if not (place / f"{name}.parquet").is_file()]
    if missing:
        raise InputError(f"the table at {str(place)!r} lacks {', '.join(missing)}: {way_out}")
    if not check_manifest(place):
        raise InputError(f"the table at {str(place)!r} lacks its digests: {way_out}")
    return place, description
