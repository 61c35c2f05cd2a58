"""Kinds of text that come with the package, for a bank that takes seconds: plays, Python, JSON, tables."""

from __future__ import annotations

from plasticity_env.data.mixed import SEPARATOR, mixed_text

NOTE = (
    "This model has a quarter of a million weights and was trained for minutes on plays, Python programs, and made-up JSON "
    "records and tables. What it writes looks like them and seldom makes sense, with all of its heads or with some."
)
EXAMPLES = {
    "plays": "HAMLET.\nWhat news, my good lord? The watch hath told me\n",
    "python": "def add(self, name, value=None):\n    if name in self._items:\n        raise ValueError(name)\n    ",
    "json": '[\n {\n  "id": 4001,\n  "name": "cleo",\n  "city": "verona",\n  "paid": true,\n',
    "tables": "name         verona   athens    padua     rome\nada         4001.20    17.31     8.05    12.40\n",
}
"""Beginnings of texts to try, none of them from the texts that the bank is fitted on."""
_KINDS = {"plays": "shakespeare", "python": "python", "json": "json", "tables": "table"}


def demo_texts() -> dict[str, str]:
    """The texts by label: what the package has of each kind's calibration split."""
    return {label: mixed_text(kind, "calibration").replace(SEPARATOR, "\n\n") for label, kind in _KINDS.items()}
