"""Cells of a table that takes long: appended to a JSON lines file as they finish, so that a cut run goes on."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from plasticity_env.common.errors import InputError
from plasticity_env.common.files import write_text

C = TypeVar("C")


class CellFile(Generic[C]):
    """The finished cells of a study, one JSON line each.

    Args:
        path: JSON lines; made with the first cell.
        parse: Makes a cell of a line's mapping; a mapping that is none makes it raise KeyError, TypeError or ValueError.
        kind: What the cells belong to, for the error: "this ablation".
    """

    def __init__(self, path: Path, parse: Callable[[dict[str, Any]], C], kind: str) -> None:
        self.path, self._parse, self._kind = path, parse, kind

    def read(self) -> list[C]:
        """The cells; none where there is no file. A last line that a crash cut off does not count.

        Raises:
            InputError: A line that is no cell.
        """
        whole, _ = self._lines()
        cells = []
        for number, line in enumerate(whole, 1):
            try:
                cells.append(self._parse(json.loads(line)))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise InputError(
                    f"line {number} of {str(self.path)!r} is no cell of {self._kind}: name another file"
                ) from error
        return cells

    def append(self, values: dict[str, Any]) -> None:
        """Append a cell's mapping; a last line that a crash cut off goes first.

        Raises:
            OSError: Nothing can be written there.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole, cut = self._lines()
        if cut:
            write_text(self.path, "".join(line + "\n" for line in whole))
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def _lines(self) -> tuple[list[str], bool]:
        """Whole lines, and whether something that is no whole line follows them."""
        if not self.path.exists():
            return [], False
        text = self.path.read_bytes().decode("utf-8", errors="replace")
        end = text.rfind("\n") + 1
        return text[:end].splitlines(), end < len(text)


def spread(values: Sequence[float], form: str = ".4f", spread_form: str = ".4f") -> str:
    """Mean ± standard deviation; the mean alone of one value."""
    mean = format(statistics.fmean(values), form)
    return f"{mean} ± {statistics.stdev(values):{spread_form}}" if len(values) > 1 else mean
