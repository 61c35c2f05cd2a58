"""Cells of a table that takes long: appended to a JSON lines file as they finish, so that a cut run goes on."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Generic, TypeVar

from plasticity_env.common.digests import checked_line, line_values, warn_of_unchecked
from plasticity_env.common.errors import InputError, first_line
from plasticity_env.common.files import LineFile, write_text

C = TypeVar("C")


class CellFile(Generic[C]):
    """The finished cells of a study, one JSON line each, with a check of the line; lines of earlier versions have none.

    Args:
        path: JSON lines; made with the first cell.
        parse: Makes a cell of a line's mapping; on any other mapping it raises KeyError, TypeError or ValueError.
        kind: What the cells belong to, for the error: "this ablation".
    """

    def __init__(self, path: Path, parse: Callable[[dict[str, Any]], C], kind: str) -> None:
        self.path, self._parse, self._kind = path, parse, kind
        self._said_so = False

    def read(self) -> list[C]:
        """The cells; none where there is no file. A last line that a crash cut off does not count.

        Raises:
            InputError: A line that is no cell.
        """
        cells = []
        for number, line in enumerate(self._lines(), 1):
            try:
                cells.append(self._parse(line_values(line)))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise InputError(
                    f"line {number} of {str(self.path)!r} is not a cell of {self._kind} ({first_line(error, 80)}): name another "
                    "file, or take this line out"
                ) from error
        return cells

    def append(self, values: dict[str, Any]) -> None:
        """Append a cell's mapping; a last line that a crash cut off goes first.

        Raises:
            InputError: The file ends in something that is no line of ours, cut off or not.
            OSError: Nothing can be written there.
        """
        if not self._ends_in_a_line():
            write_text(self.path, "".join(line + "\n" for line in self._lines()))
        if not self._said_so:
            self._say_what_is_unchecked()
        with closing(LineFile(self.path)) as file:
            file.write(checked_line(values) + "\n")

    def _say_what_is_unchecked(self) -> None:
        self._said_so = True
        warn_of_unchecked(self._lines(), self.path)

    def _ends_in_a_line(self) -> bool:
        if not self.path.exists() or not self.path.stat().st_size:
            return True
        with self.path.open("rb") as file:
            file.seek(-1, 2)
            return file.read() == b"\n"

    def _lines(self) -> list[str]:
        """Lines with a cell each; without the last one where a crash cut it off."""
        if not self.path.exists():
            return []
        *lines, last = self.path.read_bytes().decode("utf-8", errors="replace").split("\n")
        if not last:
            return lines
        try:
            json.loads(last)
        except ValueError:
            if last.startswith("{"):
                return lines  # the beginning of a cell
            raise InputError(
                f"{str(self.path)!r} does not end in a cell of {self._kind}: it is not a file of this program, so name another"
            ) from None
        return [*lines, last]  # whole, but for its line feed


def spread(values: Sequence[float], form: str = ".4f", spread_form: str = ".4f") -> str:
    """Mean ± standard deviation; the mean alone of one value."""
    mean = format(statistics.fmean(values), form)
    return f"{mean} ± {statistics.stdev(values):{spread_form}}" if len(values) > 1 else mean
