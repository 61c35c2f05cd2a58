"""What the models of the zoo are trained and measured on: each corpus is kinds of text in four splits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from plasticity_env.agents.pretraining import corpus as plays
from plasticity_env.agents.pretraining import mixed_corpus as mixed
from plasticity_env.agents.pretraining.corpus import SEPARATOR, SplitName
from plasticity_env.agents.pretraining.vocabulary import encode, pack, train_tokenizer
from plasticity_env.data.mixed import MIXED_KINDS, mixed_text


@dataclass(frozen=True)
class Corpus:
    """One corpus.

    Attributes:
        title: What it is, in a sentence that begins "pretrained on".
        licence: Licence of the texts.
        folder: Folder of its texts, within the output folder.
        contents: Name of the file that says what is in them; it is written last.
        ablated: Blocks of each kind's reward split on which each head alone is silenced.
        learnt: Letters of each kind that the tokenizer learns from; kinds that are not named: all.
        build: Writes the texts, given the folder with the sources (None: download), the folder of downloads, and where to.
        read: Texts of a split by kind, given the folder of the texts and the folder of downloads.
    """

    title: str
    licence: str
    folder: str
    contents: str
    ablated: int
    learnt: Mapping[str, int]
    build: Callable[[Path | None, Path, Path], None]
    read: Callable[[SplitName, Path, Path], dict[str, str]]

    def tokenizer(self, texts: Path, cache: Path) -> PreTrainedTokenizerFast:
        """The tokenizer that its train split teaches."""
        train = self.read("train", texts, cache)
        return train_tokenizer(SEPARATOR.join(text[: self.learnt.get(kind)] for kind, text in train.items()))

    def train_tokens(self, tokenizer: PreTrainedTokenizerFast, texts: Path, cache: Path) -> Tensor:
        """(N,) tokens of the train split, as many of each kind as there are of the shortest."""
        tokens = [encode(tokenizer, text) for text in self.read("train", texts, cache).values()]
        return torch.cat([ids[: min(map(len, tokens))] for ids in tokens])

    def blocks(
        self, split: SplitName, tokenizer: PreTrainedTokenizerFast, length: int, texts: Path, cache: Path
    ) -> dict[str, Tensor]:
        """(n, T) packed blocks of a split by kind."""
        read = self.read(split, texts, cache)
        return {kind: pack(encode(tokenizer, text), length) for kind, text in read.items()}


def _build_plays(source: Path | None, cache: Path, folder: Path) -> None:
    plays.build_texts(source or plays.download_source(cache), folder)


def _read_plays(split: SplitName, texts: Path, cache: Path) -> dict[str, str]:
    return {"shakespeare": plays.read_split(split, texts)}


def _build_mixed(source: Path | None, cache: Path, folder: Path) -> None:
    mixed.build_mixed(folder, source or cache)


def _read_mixed(split: SplitName, texts: Path, cache: Path) -> dict[str, str]:
    if split == "train":
        return {kind: mixed.train_text(kind, cache) for kind in MIXED_KINDS}
    return {kind: mixed_text(kind, split, texts) for kind in MIXED_KINDS}


CORPORA: Final[dict[str, Corpus]] = {
    "plays": Corpus("Shakespeare", plays.LICENCE, "text", "plays.json", 128, {}, _build_plays, _read_plays),
    "mixed": Corpus(
        "Shakespeare, Python's standard library, and made-up JSON records and tables, as many tokens of each",
        mixed.LICENCE,
        "text/mixed",
        mixed.CONTENTS,
        8,
        {"shakespeare": 1_000_000, "python": 1_000_000, "json": 250_000, "table": 250_000},
        _build_mixed,
        _read_mixed,
    ),
}
