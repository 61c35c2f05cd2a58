"""Text as packed blocks of token ids, in four splits that never mix: train, calibration, reward, test."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from plasticity_env.common.errors import InputError, check_least, first_line
from plasticity_env.common.files import ZOO_FOLDER
from plasticity_env.common.hub import hub_or_cache
from plasticity_env.common.lru import ByteCache
from plasticity_env.common.values import user_path

Split = Literal["train", "calibration", "reward", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
EMBEDDED = ("shakespeare", "tiny_shakespeare")
SHARED_BLOCKS = 64  # calibration and reward blocks cut from a source that is one single text
TABLES = (".csv", ".tsv", ".xls", ".xlsx", ".ods", ".feather", ".arrow", ".orc")  # their syntax would be read as prose
_TOKENS: ByteCache[Tensor] = ByteCache(64 * 2**20)  # by tokenizer and text: several environments tokenise a text once
_TEXT_FOLDER = ZOO_FOLDER / "text"


@dataclass
class TextSplits:
    """Four disjoint splits of one source, tokenised when first asked for.

    Attributes:
        name: What the text is called in reports.
        block_size: T, tokens per block.
    """

    name: str
    block_size: int
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    _texts: dict[Split, str] = field(repr=False)
    _blocks: dict[Split, Tensor] = field(default_factory=dict, repr=False)

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
) -> TextSplits:
    """Load a text in four disjoint splits.

    ``"shakespeare"`` (``"tiny_shakespeare"`` is another name for it) is embedded and split by play. A path (``.txt``,
    ``.jsonl`` or ``.parquet`` with a ``text`` column) is one text: its first 64 blocks are calibration, the next 64
    reward, then the first half of the rest test and the second half train (short texts: a quarter each). Any other name
    goes to `datasets`: train and test are its own splits, the two halves of its validation split are calibration and
    reward; a set without these splits is cut like one text.

    Text files are UTF-8, with or without a byte order mark; suffixes are read without regard to case; ``~`` is the home
    folder. Rows of JSON lines end at a line feed, and blank ones are passed over.

    Args:
        dataset: Embedded name, path, or the name of a data set on the hub.
        tokenizer: Tokenizer of the model that will read the text.
        dataset_config: Configuration of a hub data set, for example ``"wikitext-2-raw-v1"``.
        block_size: T.

    Returns:
        The splits.

    Raises:
        InputError: Nothing of this name, no network, a table whose syntax is no prose, or a text too short for four splits.
    """
    path = user_path(dataset, "a data set")
    dataset = os.fspath(dataset)
    check_least("max_length", block_size, 2)
    if dataset in EMBEDDED:
        texts = {s: gzip.decompress((_TEXT_FOLDER / f"{s}.txt.gz").read_bytes()).decode() for s in SPLITS}
        return TextSplits("shakespeare", block_size, tokenizer, texts)
    if path.suffix.lower() in (".txt", ".jsonl", ".json", ".parquet", *TABLES) or path.exists():
        return _cut(path.name, _read(path), tokenizer, block_size)
    texts = _from_hub(dataset, dataset_config)
    if set(texts) != set(SPLITS):
        return _cut(dataset, texts["train"], tokenizer, block_size)
    return TextSplits(dataset, block_size, tokenizer, texts)


def _read(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"no text at {str(path)!r}: give a .txt, .jsonl or .parquet file, or 'shakespeare'")
    suffix = path.suffix.lower()
    if suffix in TABLES:
        raise InputError(
            f"{str(path)!r} is a table, whose syntax is not prose: save its text column as a .txt, .jsonl or .parquet file"
        )
    if suffix == ".parquet":
        return "\n".join(_parquet_rows(path))
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{str(path)!r} is not UTF-8 text ({error.reason} at byte {error.start})") from error
    return (
        "\n".join(_json_rows(path, text))
        if suffix in (".jsonl", ".json")
        else text.replace("\r\n", "\n").replace("\r", "\n")
    )


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


def _cut(name: str, text: str, tokenizer: PreTrainedTokenizerBase, block_size: int) -> TextSplits:
    blocks = pack(tokenizer, text, block_size)
    if len(blocks) < len(SPLITS):
        raise InputError(
            f"{name!r} holds {len(blocks)} blocks of {block_size} tokens, four splits need at least {len(SPLITS)}: "
            "use a longer text or a smaller max_length"
        )
    shared = min(SHARED_BLOCKS, len(blocks) // 4)
    test = 2 * shared + (len(blocks) - 2 * shared) // 2
    cuts: dict[Split, Tensor] = {
        "calibration": blocks[:shared],
        "reward": blocks[shared : 2 * shared],
        "test": blocks[2 * shared : test],
        "train": blocks[test:],
    }
    return TextSplits(name, block_size, tokenizer, {}, cuts)


def _from_hub(dataset: str, config: str | None) -> dict[Split, str]:
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
    train = _text_column(loaded["train"], dataset)
    if "validation" not in loaded or "test" not in loaded:
        return {"train": "\n".join(train)}
    validation = _text_column(loaded["validation"], dataset)
    half = len(validation) // 2
    return {
        "train": "\n".join(train),
        "calibration": "\n".join(validation[:half]),
        "reward": "\n".join(validation[half:]),
        "test": "\n".join(_text_column(loaded["test"], dataset)),
    }
