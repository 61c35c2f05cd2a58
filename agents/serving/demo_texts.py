"""Kinds of text that are on every machine, for a bank that takes a minute: plays, sonnets, Python, tables."""

from __future__ import annotations

import argparse
import csv
import gzip
import inspect
import io
import random
import textwrap

from plasticity_env.common.errors import InputError
from plasticity_env.common.files import ZOO_FOLDER

NOTE = (
    "This model was trained on Shakespeare's plays and poems and on nothing else. It writes neither Python nor tables, with all "
    "of its heads or with some; they are here to show that the router tells them apart."
)
EXAMPLES = {
    "plays": "HAMLET.\nWhat news, my good lord? The watch hath told me\n",
    "sonnets": "When in the winter of my days I think\nOn all the summer that thy beauty gave,\n",
    "python": "def add(self, name, value=None):\n    if name in self._items:\n        raise ValueError(name)\n    ",
    "tables": "4001,Verona,17.20,31\n4002,Athens,8.05,12\n4003,Padua,44.90,7\n4004,",
}
"""Beginnings of texts to try, none of them from the texts that the bank is fitted on."""
_CITIES = ("Rome", "Verona", "Venice", "Padua", "Athens", "Elsinore")


def demo_texts() -> dict[str, str]:
    """The texts by label.

    Raises:
        InputError: This Python comes without the source of its standard library.
    """
    return {"plays": _embedded("calibration"), "sonnets": _sonnets(), "python": _python(), "tables": _table()}


def _embedded(split: str) -> str:
    return gzip.decompress((ZOO_FOLDER / "text" / f"{split}.txt.gz").read_bytes()).decode()


def _sonnets() -> str:
    works = _embedded("train").split("<|endoftext|>")
    (found,) = [work for work in works if work.lstrip().upper().startswith("THE SONNETS")]
    return found


def _python() -> str:
    try:
        return "\n".join(map(inspect.getsource, (argparse, textwrap)))
    except OSError as error:
        raise InputError(
            "this Python comes without the source of its standard library, which the demo reads: use another, or --bank"
        ) from error


def _table() -> str:
    """Rows of a table, drawn."""
    draw, page = random.Random(0), io.StringIO()
    table = csv.writer(page, lineterminator="\n")
    table.writerow(("id", "city", "price", "seats"))
    for number in range(1, 3001):
        table.writerow((number, draw.choice(_CITIES), f"{draw.uniform(5, 60):.2f}", draw.randint(1, 40)))
    return page.getvalue()
