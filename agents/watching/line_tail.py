"""A file that grows by lines, read from where one stopped; one that was written anew is read from its start."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

PORTION = 8 * 2**20  # most bytes that one reading takes


@dataclass(frozen=True)
class Tailed:
    """What a reading found.

    Attributes:
        anew: Whether the file is another than before: what was read of it no longer counts.
        lines: Whole lines, without their ends.
        more: Whether there is more to read at once.
    """

    anew: bool
    lines: list[bytes]
    more: bool


class LineTail:
    """Reads a file's whole lines, once each.

    Args:
        path: It need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: tuple[int, int] | None = None  # which one it is: a run that is rewound writes another in its place
        self._place = 0

    def read(self) -> Tailed:
        """The lines that came since the last reading; a line longer than `PORTION` comes in parts."""
        try:
            with self.path.open("rb") as file:
                state = os.fstat(file.fileno())
                anew = self._file is not None and (
                    self._file != (state.st_dev, state.st_ino) or state.st_size < self._place
                )
                if anew:
                    self._place = 0
                self._file = (state.st_dev, state.st_ino)
                file.seek(self._place)
                data = file.read(PORTION)
        except OSError:  # gone, or not there yet
            gone, self._file, self._place = self._file is not None, None, 0
            return Tailed(gone, [], False)
        end = data.rfind(b"\n") + 1 or (len(data) if len(data) == PORTION else 0)
        self._place += end
        return Tailed(anew, data[:end].splitlines(), len(data) == PORTION)
