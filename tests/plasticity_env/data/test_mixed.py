"""The embedded texts of four kinds: no document in two splits, what the record says, documents told apart."""

from __future__ import annotations

import hashlib
import json
import random

import pytest
import torch

from plasticity_env import InputError, load_model, load_text
from plasticity_env.data.generated import GENERATED
from plasticity_env.data.mixed import MIXED, MIXED_FOLDER, MIXED_KINDS, SEPARATOR, mixed_text
from plasticity_env.data.text import SPLITS

RECORD = json.loads((MIXED_FOLDER / "mixed.json").read_text(encoding="utf-8"))["kinds"]
HELD = ("calibration", "reward", "test")


@pytest.fixture(scope="module")
def tokenizer():
    return load_model("bard-gpt2-4x4").tokenizer


@pytest.mark.parametrize("kind", MIXED_KINDS)
def test_no_document_is_in_two_splits(kind):
    seen: dict[str, str] = {}
    for split in SPLITS:
        for document in mixed_text(kind, split).split(SEPARATOR):
            assert seen.setdefault(document, split) == split
            assert document.isascii()
            assert document.strip()
    assert sorted(set(seen.values())) == sorted(SPLITS)


@pytest.mark.parametrize("kind", MIXED_KINDS[1:])
def test_texts_are_what_the_record_says(kind):
    for split in SPLITS:
        text, said = mixed_text(kind, split), RECORD[kind][split]
        assert (len(text), hashlib.sha256(text.encode()).hexdigest()) == (said["letters"], said["sha256"])
    names = [name for split in SPLITS for name in RECORD[kind][split]["documents"]]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("kind", ["json", "table"])
def test_a_made_up_document_follows_from_its_number(kind):
    for split in SPLITS:
        documents, (first, last) = mixed_text(kind, split).split(SEPARATOR), RECORD[kind][split]["documents"]
        for number, document in ((first, documents[0]), (last, documents[-1])):
            assert GENERATED[f"generated:{kind}"](random.Random(f"mixed {kind} {number}")) == document


@pytest.mark.parametrize("name", MIXED)
def test_every_kind_loads_and_its_documents_are_told_apart(name, tokenizer):
    text = load_text(name, tokenizer, block_size=64)
    blocks, documents = text.blocks("reward"), text.documents("reward")
    assert documents is not None
    ends = tokenizer.convert_tokens_to_ids(SEPARATOR)
    for number in range(0, len(blocks), 50):
        assert documents[number] == int((blocks[:number] == ends).sum())
    assert len(torch.unique(documents)) > 1
    drawn = text.drawn("reward", 16, seed=0)
    assert drawn.shape == (16, 64)
    assert torch.equal(drawn, text.drawn("reward", 16, seed=0))


def test_a_tokenizer_without_the_separator_tells_no_documents_apart(tokenizer):
    class Without:
        """The tokenizer with a vocabulary that lacks the separator."""

        model_max_length = 512

        def get_vocab(self) -> dict[str, int]:
            return {}

        def __call__(self, text: str, **options: object) -> dict[str, list[int]]:
            return {"input_ids": tokenizer(text, verbose=False, **options)["input_ids"]}

    text = load_text("mixed:python", Without(), block_size=64)
    assert text.documents("reward") is None
    assert torch.equal(text.some("reward", 4), text.blocks("reward")[:4])


def test_the_kinds_but_plays_are_small():
    assert sum(path.stat().st_size for path in MIXED_FOLDER.iterdir()) < 1_000_000
    assert set(HELD) < set(RECORD["python"])


def test_a_kind_that_there_is_not_names_those_that_there_are(tokenizer):
    with pytest.raises(InputError, match="mixed:python"):
        load_text("mixed:poems", tokenizer)
