"""Dealing documents to splits: whole, to one split each, the same again, and draws that read of many."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from plasticity_env import InputError, load_model, load_text
from plasticity_env.data.dealing import SHARES, deal, spread_draw
from plasticity_env.data.documents import documents_of, documents_of_rows
from plasticity_env.data.text import SPLITS


@pytest.fixture(scope="module")
def tokenizer():
    return load_model("bard-gpt2-4x4").tokenizer


def numbered(count, length):
    """Documents whose every token is the document's own number."""
    return [torch.full((length,), number) for number in range(count)]


PROSE = "It was a bright cold day in April, and the clocks were striking thirteen. " * 8


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("".join(f" = Title {n} = \n \n{PROSE}\n = = Part = = \n{PROSE}\n" for n in range(9)), 9),
        ("".join(f"# Title {n}\n\n{PROSE}\n\n## Part\n\n{PROSE}\n\n" for n in range(9)), 9),
        ("\n\n".join(f"# [Title {n}](there.md)\n\n{PROSE}" for n in range(9)) + "\n", 9),
        ("\n\n\n".join(f"{n} {PROSE}" for n in range(9)), 9),
        ("\n\n".join(f"{n} {PROSE}" for n in range(90)), 1),  # paragraphs are no documents
        (" = One = \n" + PROSE, 1),
        ("\n\n".join(f"# what line {n} does\nx = {n}  # {PROSE}" for n in range(90)), 1),  # comments are no titles
        ("\n\n".join(f"# -- part {n} ------\n\nx = {n}\n# and more\n\ny = {n}" for n in range(90)), 1),
        ("\n\n".join(f"x = {n}\n# a last word" for n in range(90)), 1),
    ],
)
def test_documents_are_found_by_titles_or_wide_gaps(text, count):
    found = documents_of(text)
    assert len(found) == count
    assert "".join(found) == text
    if count > 1:
        assert all(PROSE.strip() in document for document in found)


def test_long_rows_are_documents_and_short_ones_lines():
    rows = [f"{n} {PROSE}" for n in range(10)]
    assert [document.strip() for document in documents_of_rows(rows)] == [row.strip() for row in rows]
    assert documents_of_rows(["a line", "another one"] * 20) == ["\n".join(["a line", "another one"] * 20)]


def test_no_document_is_in_two_splits_and_none_is_lost():
    splits = deal(numbered(64, 50), block_size=10)
    seen = {name: set(split.blocks.unique().tolist()) for name, split in splits.items()}
    assert sorted(number for found in seen.values() for number in found) == list(range(64))
    assert {name: len(found) for name, found in seen.items()} == {name: 64 * share for name, share in SHARES.items()}
    for split in splits.values():
        assert torch.equal(split.documents, split.blocks[:, 0])


def test_a_document_that_is_there_twice_is_in_one_split():
    for copies in (2, 5):
        splits = deal(numbered(32, 50) * copies, block_size=10)
        seen = [set(split.blocks.unique().tolist()) for split in splits.values()]
        assert sum(map(len, seen)) == len(set().union(*seen)) == 32


def test_the_same_text_is_dealt_alike_and_its_order_does_not_matter():
    documents = numbered(40, 30)
    first, again = deal(documents, 10), deal(documents[::-1], 10)
    for name, split in first.items():
        assert set(split.blocks.unique().tolist()) == set(again[name].blocks.unique().tolist())


@pytest.mark.parametrize("documents", [numbered(1, 4000), [torch.arange(5000), *numbered(9, 30)], numbered(3, 500)])
def test_few_or_uneven_documents_are_cut_into_sections(documents):
    splits = deal(documents, block_size=10)
    blocks = sum(map(len, documents)) // 10
    for name, split in splits.items():
        assert len(split.blocks) >= SHARES[name] * blocks / 3
    rows = [(*tuple(row), name) for name, split in splits.items() for row in split.blocks.tolist()]
    assert len(rows) == blocks


def test_a_draw_takes_of_every_document_before_it_takes_twice():
    documents = torch.tensor([0] * 50 + [1] * 3 + [2] * 20 + [3])
    for seed in range(20):
        random = np.random.default_rng(seed)
        four, nine = spread_draw(documents, 4, random), spread_draw(documents, 9, random)
        assert sorted(documents[four].tolist()) == [0, 1, 2, 3]
        assert nine == sorted(set(nine))
        assert torch.bincount(documents[nine]).tolist() == [3, 2, 3, 1] or torch.bincount(documents[nine]).tolist() in (
            [3, 3, 2, 1],
            [2, 3, 3, 1],
        )
    assert spread_draw(documents, 74, np.random.default_rng(0)) == list(range(74))


def test_draws_differ_by_seed():
    documents = torch.arange(40) // 4
    assert len({tuple(spread_draw(documents, 5, np.random.default_rng(seed))) for seed in range(10)}) > 5


@pytest.mark.parametrize("suffix", ["txt", "jsonl"])
def test_a_file_is_split_by_document(tmp_path, tokenizer, suffix):
    path = tmp_path / f"text.{suffix}"
    pieces = [f"Number {n} says: " + f"{PROSE} {n} " * 3 for n in range(24)]
    if suffix == "txt":
        path.write_text("".join(f" = Title {n} = \n{piece}\n" for n, piece in enumerate(pieces)))
    else:
        path.write_text("\n".join(json.dumps({"text": piece}) for piece in pieces))
    text = load_text(path, tokenizer, block_size=32)
    where: dict[int, set[str]] = {}
    for split in SPLITS:
        said = tokenizer.decode(text.blocks(split).flatten())
        documents = text.documents(split)
        assert documents is not None
        assert len(documents) == len(text.blocks(split))
        for number in range(24):
            if f"Number {number} says" in said:
                where.setdefault(number, set()).add(split)
    assert all(len(splits) == 1 for splits in where.values())
    assert len(where) == 24


def test_an_unknown_way_to_split_is_refused(tokenizer):
    with pytest.raises(InputError, match="unknown text_split 'halves'"):
        load_text("shakespeare", tokenizer, text_split="halves")
