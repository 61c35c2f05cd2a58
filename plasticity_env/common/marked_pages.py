"""Pages of text in which a program renews what lies between two marks."""

from __future__ import annotations

from plasticity_env.common.errors import InputError


def between_marks(page: str, tables: str, begin: str, end: str) -> str:
    """A page with what lies between its marks replaced; the tables between marks are appended where it has none.

    Args:
        page: The page's text.
        tables: What is to stand between the marks.
        begin, end: The marks, a line each.

    Raises:
        InputError: One mark without the other.
    """
    block = f"{begin}\n{tables}\n{end}"
    if begin not in page and end not in page:
        return f"{page.rstrip()}\n\n{block}\n".lstrip()
    before, first, rest = page.partition(begin)
    _, last, after = rest.partition(end)
    if not first or not last:
        raise InputError(f"the page holds only one of the marks {begin!r} and {end!r}, in this order")
    return before + block + after
