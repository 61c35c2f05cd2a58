"""Text as packed blocks of token ids, in four splits that never mix: train, calibration, reward, test."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from plasticity_env.common.errors import InputError, check_least, first_line, unknown
from plasticity_env.common.files import ZOO_FOLDER
from plasticity_env.common.hub import hub_or_cache
from plasticity_env.common.lru import ByteCache
from plasticity_env.common.values import user_path
from plasticity_env.data.dealing import Dealt, deal, spread_draw
from plasticity_env.data.documents import EMBEDDED, TEXT_SPLITS, documents_of, documents_of_rows
from plasticity_env.data.generated import GENERATED, generated_documents
from plasticity_env.data.mixed import MIXED, SEPARATOR, mixed_text

Split = Literal["train", "calibration", "reward", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
SHARED_BLOCKS = 64  # calibration and reward blocks of a source that is one single text and is cut from its front
HALVES = {"calibration": 0.5, "reward": 0.5}  # of the validation split of a hub data set
TABLES = (".csv", ".tsv", ".xls", ".xlsx", ".ods", ".feather", ".arrow", ".orc")  # their syntax would be read as prose
_TOKENS: ByteCache[Tensor] = ByteCache(64 * 2**20)  # by tokenizer and text: several environments tokenise a text once
_TEXT_FOLDER = ZOO_FOLDER / "text"


@dataclass
class TextSplits:
    """Four disjoint splits of one source, tokenised when first asked for.

    Attributes:
        name: What the text is called in reports.
        block_size: T, tokens per block.
        tokenizer: Tokenizer of the model that reads it.
        separator: What stands between two documents of the texts; a tokenizer that has a token for it tells them apart.
    """

    name: str
    block_size: int
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    _texts: dict[Split, str] = field(repr=False)
    _blocks: dict[Split, Tensor] = field(default_factory=dict, repr=False)
    _documents: dict[Split, Tensor] = field(default_factory=dict, repr=False)
    separator: str | None = None

    def blocks(self, split: Split) -> Tensor:
        """(n, T) token ids of a split: full blocks in reading order, nothing padded, the remainder dropped.

        Raises:
            InputError: The split is shorter than one block.
        """
        if not isinstance(split, str) or split not in SPLITS:
            raise InputError(f"unknown split {split!r}: use one of {', '.join(SPLITS)}")
        if split not in self._blocks:
            blocks = pack(self.tokenizer, self._texts[split], self.block_size)
            if not len(blocks):
                raise InputError(
                    f"the {split} split of {self.name!r} is shorter than one block of {self.block_size} tokens: "
                    "use a longer text or a smaller max_length"
                )
            self._blocks[split] = blocks
        return self._blocks[split]

    def documents(self, split: Split) -> Tensor | None:
        """(n,) number of the document that each block of a split begins in; None where documents are not told apart."""
        if self.separator is not None and split not in self._documents:
            ends = self.tokenizer.get_vocab().get(self.separator)
            if ends is not None:
                blocks = self.blocks(split)
                ended = (blocks == ends).flatten().cumsum(0)
                self._documents[split] = torch.cat(
                    [ended.new_zeros(1), ended[self.block_size - 1 : -1 : self.block_size]]
                )
        return self._documents.get(split)

    def some(self, split: Split, count: int | None) -> Tensor:
        """(n, T) blocks that stand for a split: evenly over it where its documents are told apart, else its first ones.

        Args:
            split: Name of the split.
            count: How many, at most as many as there are; None for all.
        """
        blocks = self.blocks(split)
        most = None if count is None else min(count, len(blocks))
        return some_blocks(blocks, most, spread=self.documents(split) is not None)

    def drawn(self, split: Split, count: int, seed: int) -> Tensor:
        """(n, T) blocks of a split that a seed draws, over as many documents as it has where these are told apart."""
        if self.documents(split) is not None:
            return self.blocks(split)[self.draw(split, count, np.random.default_rng(seed))]
        blocks = self.blocks(split)
        return blocks[torch.randperm(len(blocks), generator=torch.Generator().manual_seed(seed))[:count]]

    def draw(self, split: Split, count: int, random: np.random.Generator, without: Sequence[int] = ()) -> list[int]:
        """Draw blocks of a split without replacement, over as many documents as it has where these are told apart.

        Args:
            split: Name of the split.
            count: How many, at most as many as there are.
            random: Source of the draw.
            without: Numbers of blocks that are not to be drawn.

        Returns:
            Numbers of the blocks, in ascending order.
        """
        left = np.setdiff1d(np.arange(len(self.blocks(split))), np.array(without, dtype=np.int64))
        documents = self.documents(split)
        if documents is None:
            drawn = np.sort(random.choice(len(left), count, replace=False))
        else:
            drawn = np.array(spread_draw(documents[left], count, random), dtype=np.int64)
        return [int(number) for number in left[drawn]]


def pack(tokenizer: PreTrainedTokenizerBase, text: str, block_size: int) -> Tensor:
    """Tokenise a text and cut it into full blocks, (n, block_size) int64; the remainder is dropped."""
    ids = _token_ids(tokenizer, text)
    return ids[: len(ids) // block_size * block_size].view(-1, block_size).clone()


def _token_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> Tensor:
    """(N,) int64; read-only, as the next call with the same tokenizer and text may return the same tensor."""
    if tokenizer is None:
        raise InputError(
            "a text needs the tokenizer of the model that reads it, and there is none: save the model with one"
        )
    backend = getattr(
        tokenizer, "backend_tokenizer", None
    )  # only fast tokenizers have one, which says all that it does
    key = None if backend is None else tuple(hashlib.sha256(s.encode()).digest() for s in (backend.to_str(), text))
    ids = None if key is None else _TOKENS.get(key)
    if ids is None:
        longest = tokenizer.model_max_length
        tokenizer.model_max_length = int(1e30)  # blocks are cut by `pack`: no warning about long texts
        try:
            ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.long)
        finally:
            tokenizer.model_max_length = longest
        if key is not None:
            _TOKENS.put(key, ids, ids.nbytes)
    return ids


def some_blocks(ids: Tensor, blocks: int | None, spread: bool = False) -> Tensor:
    """(n, T) blocks of (N, T), n at most N: the first ones, or n that lie evenly over all; None for all.

    Neighbouring blocks are of one scene or article, so a few of them say less about a text than as many that are spread.
    """
    if blocks is None or not spread:
        return ids[:blocks]
    return ids[[number * len(ids) // blocks for number in range(blocks)]]


def load_text(
    dataset: str | PathLike[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    dataset_config: str | None = None,
    block_size: int = 256,
    text_split: str = "documents",
) -> TextSplits:
    """Load a text in four disjoint splits.

    ``"shakespeare"`` (``"tiny_shakespeare"`` is another name for it) is embedded and split by play; ``"generated:json"`` and
    ``"generated:table"`` are made-up records and tables, always the same; ``"mixed:shakespeare"``, ``"mixed:python"``,
    ``"mixed:json"`` and ``"mixed:table"`` are embedded, with the splits of the model ``mixed-llama-4x8``. A path (``.txt``,
    ``.jsonl`` or ``.parquet`` with a ``text`` column) is one text, whose documents are dealt to the splits by a hash of what
    they say: 3/8 of them to test, 1/4 to calibration, 1/4 to train, 1/8 to reward, and none to two of them.
    Rows are documents; in plain text they are found by their titles or the blank lines between them (see
    `plasticity_env.data.documents`), and where there are none the text is cut into 64 sections. Any other name goes to
    `datasets`: train and test are its own splits, the documents of its validation split are dealt to calibration and reward;
    a set without these splits is dealt like one text.

    Text files are UTF-8, with or without a byte order mark; suffixes are read without regard to case; ``~`` is the home
    folder. Rows of JSON lines end at a line feed, and blank ones are passed over.

    Args:
        dataset: Embedded name, path, or the name of a data set on the hub.
        tokenizer: Tokenizer of the model that will read the text.
        dataset_config: Configuration of a hub data set, for example ``"wikitext-2-raw-v1"``.
        block_size: Tokens T in a block.
        text_split: ``"documents"``, or ``"leading"`` as in version 0 of the environments: of one text the first 64 blocks are
            calibration, the next 64 reward, then the first half of the rest test and the second half train (short texts: a
            quarter each); of a hub data set the first half of the validation split is calibration, the other one reward.

    Returns:
        The splits.

    Raises:
        InputError: Nothing of this name, no network, a table whose syntax is no prose, or a text too short for four splits.
    """
    if text_split not in TEXT_SPLITS:
        raise unknown("text_split", text_split, TEXT_SPLITS)
    path = user_path(dataset, "a data set")
    dataset = os.fspath(dataset)
    check_least("max_length", block_size, 2)
    if dataset in EMBEDDED:
        texts = {s: gzip.decompress((_TEXT_FOLDER / f"{s}.txt.gz").read_bytes()).decode() for s in SPLITS}
        return TextSplits("shakespeare", block_size, tokenizer, texts)
    if dataset in MIXED:
        texts = {s: mixed_text(MIXED[dataset], s) for s in SPLITS}
        return TextSplits(dataset, block_size, tokenizer, texts, separator=SEPARATOR)
    if dataset in GENERATED:
        return _one_text(dataset, generated_documents(dataset), tokenizer, block_size, text_split)
    if path.suffix.lower() in (".txt", ".jsonl", ".json", ".parquet", *TABLES) or path.exists():
        return _one_text(path.name, _read(path), tokenizer, block_size, text_split)
    if dataset.partition(":")[0] in ("mixed", "generated"):
        raise unknown("text", dataset, (*MIXED, *GENERATED))
    rows = _from_hub(dataset, dataset_config)
    if "validation" not in rows:
        return _one_text(dataset, rows["train"], tokenizer, block_size, text_split)
    own: dict[Split, str] = {"train": "\n".join(rows["train"]), "test": "\n".join(rows["test"])}
    validation = rows["validation"]
    if text_split == "leading":
        half = len(validation) // 2
        halves: dict[Split, str] = {"calibration": "\n".join(validation[:half]), "reward": "\n".join(validation[half:])}
        return TextSplits(dataset, block_size, tokenizer, own | halves)
    ids = [_token_ids(tokenizer, document) for document in documents_of_rows(validation)]
    return _of_dealt(dataset, deal(ids, block_size, HALVES), tokenizer, block_size, own)


def _read(path: Path) -> list[str]:
    """Rows of a table's or of JSON lines' text, or the one text of a plain file."""
    if not path.is_file():
        raise InputError(f"no text at {str(path)!r}: give a .txt, .jsonl or .parquet file, or 'shakespeare'")
    suffix = path.suffix.lower()
    if suffix in TABLES:
        raise InputError(
            f"{str(path)!r} is a table, whose syntax is not prose: save its text column as a .txt, .jsonl or .parquet file"
        )
    if suffix == ".parquet":
        return _parquet_rows(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{str(path)!r} is not UTF-8 text ({error.reason} at byte {error.start})") from error
    return _json_rows(path, text) if suffix in (".jsonl", ".json") else [text.replace("\r\n", "\n").replace("\r", "\n")]


def _json_rows(path: Path, text: str) -> list[str]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"line {number} of {str(path)!r} is not JSON ({first_line(error)}): each line must be an object with a "
                "'text' field"
            ) from error
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise InputError(f"line {number} of {str(path)!r} is not an object whose 'text' field is a string")
        rows.append(row["text"])
    return rows


def _parquet_rows(path: Path) -> list[str]:
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except Exception as error:  # pyarrow raises many unrelated types
        raise InputError(f"{str(path)!r} is not a parquet file ({first_line(error)})") from error
    return _text_column(table, str(path))


def _text_column(table: Any, where: str) -> list[str]:
    """The strings of a table's text column.

    Raises:
        InputError: There is no such column, or a row of it holds no string.
    """
    if "text" not in table.column_names:
        raise InputError(f"{where!r} has no 'text' column, only {', '.join(table.column_names)}")
    column = table["text"]
    rows = column.to_pylist() if hasattr(column, "to_pylist") else list(column)
    for number, row in enumerate(rows):
        if not isinstance(row, str):
            raise InputError(f"row {number} of {where!r} holds {type(row).__name__} in its 'text' column, not a string")
    return rows


def _one_text(
    name: str, rows: list[str], tokenizer: PreTrainedTokenizerBase, block_size: int, text_split: str
) -> TextSplits:
    """Splits of one text: its rows, or a single one that is all of it."""
    if text_split == "leading":
        return _cut(name, pack(tokenizer, "\n".join(rows), block_size), tokenizer, block_size)
    documents = documents_of(rows[0]) if len(rows) == 1 else documents_of_rows(rows)
    ids = [_token_ids(tokenizer, document) for document in documents]
    _check_four(name, sum(map(len, ids)) // block_size, block_size)
    return _of_dealt(name, deal(ids, block_size), tokenizer, block_size)


def _of_dealt(
    name: str,
    dealt: dict[str, Dealt],
    tokenizer: PreTrainedTokenizerBase,
    block_size: int,
    texts: dict[Split, str] | None = None,
) -> TextSplits:
    blocks: dict[Split, Tensor] = {split: dealt[split].blocks for split in SPLITS if split in dealt}
    documents: dict[Split, Tensor] = {split: dealt[split].documents for split in SPLITS if split in dealt}
    return TextSplits(name, block_size, tokenizer, texts or {}, blocks, documents)


def _check_four(name: str, blocks: int, block_size: int) -> None:
    if blocks < len(SPLITS):
        raise InputError(
            f"{name!r} holds {blocks} blocks of {block_size} tokens, four splits need at least {len(SPLITS)}: "
            "use a longer text or a smaller max_length"
        )


def _cut(name: str, blocks: Tensor, tokenizer: PreTrainedTokenizerBase, block_size: int) -> TextSplits:
    _check_four(name, len(blocks), block_size)
    shared = min(SHARED_BLOCKS, len(blocks) // 4)
    test = 2 * shared + (len(blocks) - 2 * shared) // 2
    cuts: dict[Split, Tensor] = {
        "calibration": blocks[:shared],
        "reward": blocks[shared : 2 * shared],
        "test": blocks[2 * shared : test],
        "train": blocks[test:],
    }
    return TextSplits(name, block_size, tokenizer, {}, cuts)


def _from_hub(dataset: str, config: str | None) -> dict[str, list[str]]:
    """Rows of the train split, and of validation and test where there are both."""
    import datasets

    try:
        with hub_or_cache():
            loaded = datasets.load_dataset(dataset, config)
    except Exception as error:  # the hub client raises many unrelated types
        raise InputError(
            f"cannot load data set {dataset!r} (config {config!r}) from the hub ({first_line(error)}); "
            "without a network use --dataset shakespeare or a path to a .txt, .jsonl or .parquet file"
        ) from error
    if "train" not in loaded:
        raise InputError(f"data set {dataset!r} has no train split, only {', '.join(loaded)}")
    wanted = ("train", "validation", "test") if "validation" in loaded and "test" in loaded else ("train",)
    return {split: _text_column(loaded[split], dataset) for split in wanted}
