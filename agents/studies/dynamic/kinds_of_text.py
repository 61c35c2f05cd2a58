"""Six kinds of text from named packages, so that everybody's are the same."""

from __future__ import annotations

import io
import json
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path

from plasticity_env.agents.pretraining.source_packages import Package, debian_files, pip_package
from plasticity_env.common.errors import InputError
from plasticity_env.common.files import write_text
from plasticity_env.data.documents import documents_of

SECTION = 4000  # letters of a document that is cut from a longer file
MOST = 1_500_000  # letters of one kind


NETWORKX = pip_package(
    "networkx",
    "3.4.2",
    "networkx-3.4.2-py3-none-any.whl",
    "df5d4365b724cf81b8c6a7312509d0c22386097011ad1abe274afd5e9d3bbc5f",
)
PYCOUNTRY = pip_package(
    "pycountry",
    "24.6.1",
    "pycountry-24.6.1-py3-none-any.whl",
    "f1a4fb391cd7214f8eefd39556d740adcc233c778a27f8942c8dca351d6ce06f",
)
ZSTANDARD = pip_package(
    "zstandard",
    "0.23.0",
    "zstandard-0.23.0.tar.gz",
    "b2d8c62d08e7255f68f7a740bae85b3c9b8e5466baa9cbf7f57f1cde0ac6bc09",
    "--no-build-isolation",
    "--no-binary",
    ":all:",
)
DEBIAN_REFERENCE = Package(
    "debian-reference-de",
    "2.100",
    "debian-reference-de_2.100_all.deb",
    "3b0ce65fd63e75ddf8eb07ca36293425135080e690a07e06a6ac8bc8040ef0aa",
    ("apt-get", "download", "debian-reference-de=2.100"),
)


def write_kinds(folder: Path, wikitext: Path, shakespeare: Path) -> list[Path]:
    """Write one file a kind, one document a line, as ``load_text`` reads it; what is there already stays.

    Args:
        folder: Folder to write to; downloads lie in ``packages`` beside the files.
        wikitext: WikiText-2's validation text.
        shakespeare: A plain text of plays.

    Raises:
        InputError: A text or package cannot be had.
    """
    packages = folder / "packages"
    kinds: dict[str, Callable[[], Iterator[str]]] = {
        "wikipedia": lambda: iter(documents_of(_plain(wikitext))),
        "shakespeare": lambda: _sections(_plain(shakespeare)),
        "python": lambda: _python(NETWORKX.get(packages)),
        "c": lambda: _c(ZSTANDARD.get(packages)),
        "german": lambda: _german(DEBIAN_REFERENCE.get(packages)),
        "json": lambda: _json(PYCOUNTRY.get(packages)),
    }
    paths = []
    for kind, documents in kinds.items():
        paths.append(folder / f"{kind}.jsonl")
        if not paths[-1].is_file():
            folder.mkdir(parents=True, exist_ok=True)
            write_text(paths[-1], "".join(json.dumps({"text": text}) + "\n" for text in _up_to(MOST, documents())))
    return paths


def _plain(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"no text at {str(path)!r}: name the file")
    return path.read_text(encoding="utf-8")


def _up_to(letters: int, documents: Iterator[str]) -> Iterator[str]:
    for text in documents:
        if letters <= 0:
            return
        letters -= len(text)
        yield text


def _sections(text: str) -> Iterator[str]:
    """A text in pieces of some `SECTION` letters that end at blank lines."""
    piece = ""
    for paragraph in re.split(r"\n\s*\n", text):
        piece += paragraph.strip("\n") + "\n\n"
        if len(piece) >= SECTION:
            yield piece
            piece = ""
    if piece.strip():
        yield piece


def _python(wheel: bytes) -> Iterator[str]:
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".py") and "/tests/" not in name and archive.getinfo(name).file_size > 2000:
                yield archive.read(name).decode()


def _c(sdist: bytes) -> Iterator[str]:
    with tarfile.open(fileobj=io.BytesIO(sdist)) as archive:
        for member in sorted(archive.getmembers(), key=lambda each: each.name):
            file = archive.extractfile(member) if member.name.endswith((".h", ".c")) else None
            if file is not None:
                yield from _sections(file.read().decode())


def _german(deb: bytes) -> Iterator[str]:
    with debian_files(deb) as archive:
        for member in sorted(archive.getmembers(), key=lambda each: each.name):
            file = archive.extractfile(member) if re.search(r"/ch\d+\.de\.html$", member.name) else None
            if file is not None:
                page = re.sub(r"(?s)<(script|style|pre).*?</\1>", "\n", file.read().decode())
                lines = re.sub(r"(?s)</(p|div|li|h\d|tr|table)>", "\n\n", page)
                text = unescape(re.sub(r"(?s)<[^>]*>", " ", lines))
                yield from _sections(re.sub(r"[ \t]+", " ", re.sub(r"\n[ \t]+", "\n", text)))


def _json(wheel: bytes) -> Iterator[str]:
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        for name in ("iso3166-2", "iso639-3"):
            (entries,) = json.loads(archive.read(f"pycountry/databases/{name}.json")).values()
            for start in range(0, len(entries), 40):
                yield json.dumps(entries[start : start + 40], indent=2, ensure_ascii=False)
