"""Where one document of a text ends and the next begins."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

EMBEDDED = ("shakespeare", "tiny_shakespeare")  # names of the text that comes with the package, split by play
TEXT_SPLITS = ("documents", "leading")  # ways to split a text that has no splits of its own
FEWEST = 8  # documents that a rule must find, else the next rule is tried
_RULES = (
    re.compile(r"^ ?= [^=\n]+ = ?$", re.MULTILINE),  # "= Title =" of WikiText and of wikis, first level only
    # "# Title" of Markdown, alone between blank lines: a comment stands on its code, a ruler (# ----) names nothing
    re.compile(r"(?:\A|(?<=\n\n))# (?![^\w\s]{2})\S[^\n]*(?=\n\n|\n?\Z)"),
    re.compile(r"(?<=\n)\n\n\n*(?=[^\n])|\f"),  # two blank lines or more, or a form feed: acts, chapters, books
)


def documents_of(text: str) -> list[str]:
    """Cut a plain text into its documents; joined again they are the text.

    Of three rules the first that finds at least eight documents counts: titles of a wiki (``= Title =``), titles of
    Markdown (``# Title`` alone between blank lines, so that comments of source code are none), and stretches between two or
    more blank lines.

    Returns:
        The documents in order; the text alone where no rule finds enough.
    """
    for rule in _RULES:
        starts = [found.end() if not found.group().strip() else found.start() for found in rule.finditer(text)]
        if len(starts) >= FEWEST:
            cuts = [0, *(start for start in starts if start), len(text)]
            return [text[start:stop] for start, stop in pairwise(cuts) if stop > start]
    return [text]


def documents_of_rows(rows: Sequence[str]) -> list[str]:
    """Documents of a table's text column: its rows, or where they are lines of one text the documents of that.

    Rows count as documents unless they are short on average (below 400 characters, as lines and sentences are).
    """
    if len(rows) < FEWEST or sum(map(len, rows)) < 400 * len(rows):
        return documents_of("\n".join(rows))
    return [f"{row}\n" for row in rows]
