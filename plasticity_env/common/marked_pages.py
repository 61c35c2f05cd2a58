"""Pages of text in which a program renews what lies between two marks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from plasticity_env.common.errors import InputError
from plasticity_env.common.files import write_text


@dataclass(frozen=True)
class MarkedPage:
    """A page (Markdown) of which a program writes a part. One that cannot be renewed is an error when this is made.

    Attributes:
        path: The page's file, which need not be there yet.
        begin, end: Marks, a line each; on a page that has none the part is appended.

    Raises:
        InputError: The page has one mark without the other, or they stand in the wrong order.
    """

    path: Path
    begin: str
    end: str

    def __post_init__(self) -> None:
        self._around()

    def renew(self, part: str) -> None:
        """Write the part between its marks; all else stays.

        Args:
            part: Text of one line or more.
        """
        before, after = self._around()
        write_text(self.path, f"{before}{self.begin}\n{part}\n{self.end}{after}")

    def _around(self) -> tuple[str, str]:
        """What stands before the first mark and after the second."""
        page = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        if self.begin not in page and self.end not in page:
            return f"{page.rstrip()}\n\n".lstrip(), "\n"
        before, first, rest = page.partition(self.begin)
        _, last, after = rest.partition(self.end)
        if not first or not last:
            raise InputError(
                f"the page {str(self.path)!r} holds only one of the marks {self.begin!r} and {self.end!r}, in this order"
            )
        return before, after
