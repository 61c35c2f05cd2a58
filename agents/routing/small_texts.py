"""Four kinds of text that every machine with Python has: plays, a manual, programs, records."""

from __future__ import annotations

import json
import pydoc_data.topics
import random
import string
import sysconfig
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from plasticity_env.data.text import load_text, pack

KINDS = ("plays", "manual", "programs", "records")


def small_texts(tokenizer: PreTrainedTokenizerBase, tokens: int, fitted: int, measured: int) -> tuple[dict, dict]:
    """Blocks of each kind, from other documents to fit on than to measure on.

    Args:
        tokenizer: Tokenizer of the model.
        tokens: T, in a block.
        fitted, measured: Blocks of each kind.

    Returns:
        Two dictionaries of (n, T) token ids by kind.
    """
    plays = load_text("shakespeare", tokenizer, block_size=tokens)
    halves = {kind: (pack(tokenizer, a, tokens), pack(tokenizer, b, tokens)) for kind, (a, b) in _halves().items()}
    halves["plays"] = plays.blocks("calibration"), plays.blocks("reward")
    return (
        {kind: _spread(halves[kind][0], fitted) for kind in KINDS},
        {kind: _spread(halves[kind][1], measured) for kind in KINDS},
    )


def _spread(blocks: Tensor, count: int) -> Tensor:
    """A number of the blocks, spread evenly."""
    count = min(count, len(blocks))
    return blocks[torch.arange(count) * len(blocks) // count]


def _halves() -> dict[str, tuple[str, str]]:
    """Two texts of each kind but the plays, of documents of their own."""
    topics = [text for _, text in sorted(pydoc_data.topics.topics.items())]
    sources = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    programs = [path.read_text(encoding="utf-8", errors="replace")[:12_000] for path in sources]
    written = [_records(number) for number in range(120)]
    kinds = {"manual": topics, "programs": programs, "records": written}
    return {kind: ("\n".join(texts[::2]), "\n".join(texts[1::2])) for kind, texts in kinds.items()}


def _records(seed: int) -> str:
    """A document of JSON lines with fields of its own."""
    draw = random.Random(seed)
    names = ["".join(draw.choices(string.ascii_lowercase, k=draw.randint(3, 8))) for _ in range(draw.randint(3, 6))]
    kinds = [draw.choice(("number", "share", "word", "flag")) for _ in names]
    made = {
        "number": lambda: draw.randint(0, 9999),
        "share": lambda: round(draw.random(), 3),
        "word": lambda: "".join(draw.choices(string.ascii_lowercase, k=6)),
        "flag": lambda: draw.random() < 0.5,
    }
    return "\n".join(
        json.dumps({name: made[kind]() for name, kind in zip(names, kinds, strict=True)}) for _ in range(40)
    )
