"""The second text of the zoo: plays, Python programs, JSON records and tables, in four splits that share no document."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import re
from collections.abc import Iterator
from functools import cache
from itertools import count
from pathlib import Path
from typing import Final

from plasticity_env.agents.pretraining.source_packages import Package, debian_files
from plasticity_env.common.files import write_text
from plasticity_env.data.generated import GENERATED
from plasticity_env.data.mixed import MIXED_KINDS, SEPARATOR, mixed_text

CONTENTS: Final = "mixed.json"
LETTERS: Final = {"calibration": 150_000, "reward": 100_000, "test": 200_000}
"""Of each kind, at least; the other documents are train. Plays keep their own splits."""
SHIPPED: Final = 300_000
"""Letters of a kind's train split that come with the package."""
MADE: Final = 1_950_000
"""Letters of each kind that is made up, all splits together."""
LEARNT: Final = 1_500_000
"""Letters of each kind's train split that models learn from."""
LONGEST: Final = 40_000
"""Longer programs are train, so that the other splits hold several."""

STDLIB: Final = Package(
    "libpython3.11-stdlib",
    "3.11.2-6+deb12u8",
    "libpython3.11-stdlib_3.11.2-6+deb12u8_amd64.deb",
    "890b3540dad8a1ccc0deeca025db735bcc82629a76adacbe3b50fcc06ed528ca",
    ("apt-get", "download", "libpython3.11-stdlib=3.11.2-6+deb12u8"),
)
SOURCE: Final = (
    "shakespeare: the plays of plays.json. python: modules of Python 3.11.2's standard library, from the Debian package "
    f"{STDLIB.name} {STDLIB.version} (sha256 {STDLIB.sha256}), but those with a notice of their own, with other than ASCII "
    "letters, or without code. json, table: made up, with a seed for every document"
)
LICENCE: Final = (
    "The works of William Shakespeare are in the public domain; Python's standard library is Copyright (c) 2001-2023 Python "
    "Software Foundation, under the PSF License Version 2 (LICENSE-PYTHON.txt); records and tables are made up."
)


def build_mixed(folder: Path, packages: Path) -> None:
    """Write ``<kind>.<split>.txt.gz`` of every kind but the plays, and `CONTENTS`, which says what is in them.

    Args:
        folder: Folder to write to; of the train splits go the first `SHIPPED` letters.
        packages: Folder in which the package of Python's standard library lies, or to which it is downloaded.

    Raises:
        InputError: The package cannot be had.
    """
    folder.mkdir(parents=True, exist_ok=True)
    contents: dict[str, object] = {"source": SOURCE, "licence": LICENCE, "separator": SEPARATOR}
    kinds: dict[str, object] = {}
    for kind in MIXED_KINDS[1:]:
        splits: dict[str, object] = {}
        for split, documents in documents_by_split(kind, packages).items():
            chosen = list(_first(documents, SHIPPED)) if split == "train" else list(documents)
            joined = SEPARATOR.join(text for _, text in chosen).encode("utf-8")
            (folder / f"{kind}.{split}.txt.gz").write_bytes(gzip.compress(joined, compresslevel=9, mtime=0))
            names = [name for name, _ in chosen]
            splits[split] = {
                "letters": len(joined),
                "sha256": hashlib.sha256(joined).hexdigest(),
                "documents": names if kind == "python" else [names[0], names[-1]],
            }
        kinds[kind] = splits
    write_text(folder / CONTENTS, json.dumps(contents | {"kinds": kinds}, indent=1) + "\n")


def train_text(kind: str, packages: Path) -> str:
    """The first `LEARNT` letters of a kind's train split, documents joined by `SEPARATOR`."""
    if kind == "shakespeare":
        return mixed_text(kind, "train")[:LEARNT]
    return SEPARATOR.join(text for _, text in documents_by_split(kind, packages)["train"])[:LEARNT]


@cache
def documents_by_split(kind: str, packages: Path) -> dict[str, tuple[tuple[str, str], ...]]:
    """Names and texts of a kind's documents, dealt to the splits in an order that says nothing: that of their names' hash."""
    documents = _programs(packages) if kind == "python" else _made(kind)
    dealt: dict[str, list[tuple[str, str]]] = {split: [] for split in (*LETTERS, "train")}
    left = dict(LETTERS)
    for name, text in documents:
        split = next((split for split, letters in left.items() if letters > 0 and len(text) <= LONGEST), "train")
        dealt[split].append((name, text))
        if split in left:
            left[split] -= len(text)
    return {split: tuple(hand) for split, hand in dealt.items()}


def _programs(packages: Path) -> list[tuple[str, str]]:
    texts: dict[str, str] = {}
    with debian_files(STDLIB.get(packages)) as archive:
        for member in archive.getmembers():
            file = archive.extractfile(member) if member.isfile() and member.name.endswith(".py") else None
            text = b"" if file is None else file.read()
            if len(text) > 500 and text.isascii() and not re.search(rb"(?i)copyright|licen[cs]e", text):
                texts[member.name.partition("python3.11/")[2]] = text.decode("ascii")
    return sorted(texts.items(), key=lambda item: hashlib.sha256(item[0].encode()).hexdigest())


def _made(kind: str) -> Iterator[tuple[str, str]]:
    """Documents of a kind that is made up, each named by its number, which is its seed."""
    letters, seen = 0, set()
    for number in count():
        text = GENERATED[f"generated:{kind}"](random.Random(f"mixed {kind} {number}"))
        if text not in seen:
            seen.add(text)
            letters += len(text)
            yield str(number), text
        if letters >= MADE:
            return


def _first(documents: tuple[tuple[str, str], ...], letters: int) -> Iterator[tuple[str, str]]:
    for name, text in documents:
        if letters <= 0:
            return
        if len(text) <= LONGEST:
            yield name, text
            letters -= len(text)
