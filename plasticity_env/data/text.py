"""Text as packed blocks of token ids, in four splits that never mix: train, calibration, reward, test."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from plasticity_env.common.errors import InputError, first_line
from plasticity_env.common.files import ZOO_FOLDER
from plasticity_env.common.hub import hub_or_cache

Split = Literal["train", "calibration", "reward", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
EMBEDDED = ("shakespeare", "tiny_shakespeare")
SHARED_BLOCKS = 64  # calibration and reward blocks cut from a source that is one single text
_TEXT_FOLDER = ZOO_FOLDER / "text"


@dataclass
class TextSplits:
    """Four disjoint splits of one source, tokenised when first asked for.

    Attributes:
        name: What the text is called in reports.
        block_size: T, tokens a block.
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
        if split not in SPLITS:
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
    longest = tokenizer.model_max_length
    tokenizer.model_max_length = int(1e30)  # blocks are cut here: no warning about long texts
    try:
        ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.long)
    finally:
        tokenizer.model_max_length = longest
    return ids[: len(ids) // block_size * block_size].view(-1, block_size)


def some_blocks(ids: Tensor, blocks: int | None, spread: bool = False) -> Tensor:
    """(n, T) blocks of (N, T), n at most N: the first ones, or n that lie evenly over all; None for all.

    Neighbouring blocks are of one scene or article, so a few of them say less about a text than as many that are spread.
    """
    if blocks is None or not spread:
        return ids[:blocks]
    return ids[[number * len(ids) // blocks for number in range(blocks)]]


def load_text(
    dataset: str,
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

    Args:
        dataset: Embedded name, path, or the name of a data set on the hub.
        tokenizer: Of the model that will read the text.
        dataset_config: Configuration of a hub data set, for example ``"wikitext-2-raw-v1"``.
        block_size: T.

    Returns:
        The splits.

    Raises:
        InputError: Nothing of this name, no network, or a text too short for four splits.
    """
    if block_size < 2:
        raise InputError(f"max_length {block_size} is too short: a block needs at least 2 tokens")
    path = Path(dataset)
    if dataset in EMBEDDED:
        texts = {s: gzip.decompress((_TEXT_FOLDER / f"{s}.txt.gz").read_bytes()).decode() for s in SPLITS}
        return TextSplits("shakespeare", block_size, tokenizer, texts)
    if path.suffix in (".txt", ".jsonl", ".json", ".parquet") or path.exists():
        return _cut(path.name, _read(path), tokenizer, block_size)
    texts = _from_hub(dataset, dataset_config)
    if set(texts) != set(SPLITS):
        return _cut(dataset, texts["train"], tokenizer, block_size)
    return TextSplits(dataset, block_size, tokenizer, texts)


def _read(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"no text at {str(path)!r}: give a .txt, .jsonl or .parquet file, or 'shakespeare'")
    if path.suffix in (".jsonl", ".json"):
        try:
            rows: list[Any] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
            return "\n".join(row["text"] for row in rows)
        except (ValueError, KeyError, TypeError) as error:  # UnicodeDecodeError is a ValueError
            raise InputError(f"{str(path)!r} is not JSON lines with a 'text' field each ({error})") from error
    if path.suffix == ".parquet":
        from datasets import Dataset

        try:
            table = Dataset.from_parquet(str(path))
        except Exception as error:  # pyarrow and datasets raise many unrelated types
            raise InputError(f"{str(path)!r} is not a parquet file ({first_line(error)})") from error
        if "text" not in table.column_names:
            raise InputError(f"{str(path)!r} has no 'text' column, only {', '.join(table.column_names)}")
        return "\n".join(table["text"])
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{str(path)!r} is not UTF-8 text ({error.reason} at byte {error.start})") from error


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
    column = "text" if "text" in loaded["train"].column_names else None
    if column is None:
        raise InputError(f"data set {dataset!r} has no 'text' column, only {loaded['train'].column_names}")
    if "validation" not in loaded or "test" not in loaded:
        return {"train": "\n".join(loaded["train"][column])}
    validation = loaded["validation"][column]
    half = len(validation) // 2
    return {
        "train": "\n".join(loaded["train"][column]),
        "calibration": "\n".join(validation[:half]),
        "reward": "\n".join(validation[half:]),
        "test": "\n".join(loaded["test"][column]),
    }
