"""Four kinds of text that come with the package: plays, Python programs, JSON records and tables."""

from __future__ import annotations

import gzip
from pathlib import Path

from plasticity_env.common.files import ZOO_FOLDER

SEPARATOR = "<|endoftext|>"  # stands between two documents
MIXED_KINDS = ("shakespeare", "python", "json", "table")
MIXED = {f"mixed:{kind}": kind for kind in MIXED_KINDS}
MIXED_FOLDER = ZOO_FOLDER / "text" / "mixed"


def mixed_text(kind: str, split: str, folder: Path = MIXED_FOLDER) -> str:
    """The text of a kind's split, documents joined by `SEPARATOR`; of the train split the part that the package ships.

    Args:
        kind: One of `MIXED_KINDS`; plays are those of the data set ``shakespeare``.
        split: ``"train"``, ``"calibration"``, ``"reward"`` or ``"test"``.
        folder: Folder of the texts of the other kinds.
    """
    name = ZOO_FOLDER / "text" / split if kind == "shakespeare" else folder / f"{kind}.{split}"
    return gzip.decompress(name.with_name(f"{name.name}.txt.gz").read_bytes()).decode("utf-8")
