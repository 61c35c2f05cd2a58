"""The model of four kinds of text: it knows them all, and what it learned from is named."""

from __future__ import annotations

import io
import math
import tarfile
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from plasticity_env import InputError, load_model, load_text
from plasticity_env.agents.pretraining.architectures import ZOO
from plasticity_env.agents.pretraining.cards import Card
from plasticity_env.agents.pretraining.corpora import CORPORA
from plasticity_env.agents.pretraining.mixed_corpus import LETTERS, STDLIB, documents_by_split
from plasticity_env.agents.pretraining.source_packages import Package, debian_files
from plasticity_env.data.mixed import MIXED, MIXED_FOLDER, MIXED_KINDS
from plasticity_env.model.embedded import MODELS_FOLDER
from plasticity_env.model.loading import LoadedModel

MODEL, STRANGER = "mixed-llama-4x8", "bard-llama-6x8"


@cache
def loaded(name: str) -> LoadedModel:
    """The model, loaded once."""
    return load_model(name)


@cache
def bits_per_letter(name: str, dataset: str) -> float:
    """On 6 test blocks of 128 tokens; the texts are ASCII, so models of any tokenizer compare by it."""
    model, tokenizer, _ = loaded(name)
    blocks = load_text(dataset, tokenizer, block_size=128).some("test", 6)
    with torch.no_grad():
        logits = model(blocks).logits[:, :-1]
    nats = float(F.cross_entropy(logits.flatten(0, 1), blocks[:, 1:].flatten(), reduction="sum"))
    return nats / math.log(2) / sum(len(tokenizer.decode(row[1:])) for row in blocks)


@pytest.mark.parametrize("kind", MIXED_KINDS[1:])
def test_it_knows_what_a_model_of_plays_never_saw(kind: str) -> None:
    assert bits_per_letter(MODEL, f"mixed:{kind}") < 0.6 * bits_per_letter(STRANGER, f"mixed:{kind}")


def test_it_knows_plays_as_well() -> None:
    assert bits_per_letter(MODEL, "mixed:shakespeare") < 1.5 * bits_per_letter(STRANGER, "mixed:shakespeare")


def test_its_card_has_every_kind() -> None:
    card = Card.load(MODELS_FOLDER / MODEL)
    assert (card.corpus, tuple(card.kinds)) == ("mixed", MIXED_KINDS)
    assert sum(score.tokens for score in card.kinds.values()) == card.test.tokens
    mean = sum(score.nll * score.tokens for score in card.kinds.values()) / card.test.tokens
    assert mean == pytest.approx(card.test.nll, rel=1e-6)
    assert "PSF" in card.licence
    assert {spec.corpus for spec in ZOO.values()} == set(CORPORA)


def test_the_sources_are_named() -> None:
    notice = (Path(__file__).parents[2] / "NOTICE").read_text(encoding="utf-8")
    for name in (
        f"{STDLIB.name} {STDLIB.version}",
        "PSF License Version 2",
        "Project",
        "json.*.txt.gz",
        "table.*.txt.gz",
    ):
        assert name in notice
    licence = (MIXED_FOLDER / "LICENSE-PYTHON.txt").read_text(encoding="utf-8")
    assert licence.startswith("PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2\n")
    assert set(MIXED.values()) == set(MIXED_KINDS)


def test_made_up_documents_are_dealt_once() -> None:
    dealt = documents_by_split("json", Path())
    names = [name for hand in dealt.values() for name, _ in hand]
    assert len(names) == len(set(names))
    for split, letters in LETTERS.items():
        assert letters <= sum(len(text) for _, text in dealt[split]) < letters + 2000


def _deb(files: dict[str, bytes]) -> bytes:
    """A Debian package, an ``ar`` archive, written by hand."""
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:xz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    parts = {"debian-binary": b"2.0", "data.tar.xz": inner.getvalue()}  # the first is of odd length, and so padded
    body = b""
    for name, data in parts.items():
        head = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode()
        body += head + data + b"\n" * (len(data) % 2)
    return b"!<arch>\n" + body


def test_files_of_a_debian_package_are_found() -> None:
    with debian_files(_deb({"./a.py": b"x = 1\n"})) as archive:
        (member,) = archive.getmembers()
        file = archive.extractfile(member)
        assert file is not None
        assert file.read() == b"x = 1\n"
    with pytest.raises(InputError, match="without files"):
        debian_files(b"!<arch>\n")


def test_a_package_that_cannot_be_had_or_is_another_one_is_one_sentence(tmp_path: Path) -> None:
    package = Package("none", "1.0", "none.whl", "0" * 64, ("false",))
    with pytest.raises(InputError, match=r"put none\.whl into"):
        package.get(tmp_path)
    (tmp_path / "none.whl").write_bytes(b"other")
    with pytest.raises(InputError, match="digest differs"):
        package.get(tmp_path)
