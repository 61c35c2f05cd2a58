"""Texts that are made, not found: records and tables with a seed, for experiments that need another kind of text."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

ROWS = 400
_NAMES = (
    "ada",
    "ben",
    "cleo",
    "dan",
    "eve",
    "finn",
    "gwen",
    "hugo",
    "iris",
    "jan",
    "kim",
    "leo",
    "mia",
    "noah",
    "olga",
    "paul",
)
_PLACES = (
    "york",
    "verona",
    "athens",
    "venice",
    "rome",
    "troy",
    "milan",
    "tyre",
    "ephesus",
    "messina",
    "padua",
    "vienna",
)


def _records(source: random.Random) -> str:
    rows = [
        {
            "id": source.randrange(10_000),
            "name": source.choice(_NAMES),
            "city": source.choice(_PLACES),
            "paid": source.random() < 0.5,
            "items": [source.randrange(100) for _ in range(source.randrange(4))],
        }
        for _ in range(6)
    ]
    return json.dumps(rows, indent=1)


def _table(source: random.Random) -> str:
    columns = source.sample(_PLACES, 4)
    lines = ["name    " + "".join(f"{column:>9}" for column in columns)]
    for name in source.sample(_NAMES, 10):
        lines.append(f"{name:8}" + "".join(f"{source.uniform(0, 500):9.2f}" for _ in columns))
    return "\n".join(lines)


GENERATED: dict[str, Callable[[random.Random], str]] = {"generated:json": _records, "generated:table": _table}


def generated_documents(name: str) -> list[str]:
    """400 documents of a kind in `GENERATED`, always the same."""
    return [GENERATED[name](random.Random(f"{name} {number}")) for number in range(ROWS)]
