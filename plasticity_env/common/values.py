"""Values where they enter: numbers of other libraries become Python's, paths lose their tilde, what is no number is refused."""

from __future__ import annotations

import math
import os
import re
import reprlib
from pathlib import Path
from typing import Any

from plasticity_env.common.errors import InputError

LARGEST_COUNT, LARGEST_SEED, LARGEST_RATE = 2**31 - 1, 2**32 - 1, 100.0
"""What counts of anything may be, what every random generator takes, and what no learning rate or step size exceeds."""
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxtuple = 3, 10, 10
_SHORT.maxstring = _SHORT.maxother = 160


def brief(value: object) -> str:
    """A value as an error shows it: its repr, cut where a file may hold more than anyone would read."""
    return " ".join(_SHORT.repr(value).split())


def plain_value(value: Any) -> Any:
    """A value as JSON can hold it: numpy's and torch's numbers as Python's, arrays and lists as tuples, paths as text."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple):
        return tuple(map(plain_value, value))
    if hasattr(value, "tolist"):  # of numpy or torch, a number or an array of them
        return plain_value(value.tolist())
    return value


def user_path(path: str | os.PathLike[str], what: str = "a path") -> Path:
    """A path as a user gives it; ``~`` is the home folder.

    Args:
        path: Text or a `pathlib.Path`.
        what: What it is, for the error.

    Raises:
        InputError: Something else, an empty text, or the home of a user that does not exist.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise InputError(f"{what} must name a file or a folder, got {brief(path)}")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise InputError(
            f"{what} {text!r} begins in the home of a user that does not exist: write it in full"
        ) from error


def check_number(
    name: str,
    value: object,
    least: float = -math.inf,
    most: float = math.inf,
    *,
    above: bool = False,
    below: bool = False,
) -> float:
    """Refuse what is no finite number in a range; returns it.

    Args:
        name: Said in the error.
        value: Value of a field, or a user's.
        least: Smallest that is allowed.
        most: Largest that is allowed.
        above: Whether ``least`` itself is not.
        below: Whether ``most`` itself is not.

    Raises:
        InputError: The value is not a finite number in this range.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{name} must be a number, got {brief(value)}")
    low = value > least if above else value >= least
    high = value < most if below else value <= most
    if not (-math.inf < value < math.inf and low and high):
        raise InputError(f"{name} must {_range(least, most, above, below)}, got {brief(value)}")
    return value


def check_text(name: str, value: object) -> str:
    """Refuse what is no text with something in it; returns it.

    Raises:
        InputError: The value is not a text, or an empty one.
    """
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{name} must be a name or a path, got {brief(value)}")
    return value


def _range(least: float, most: float, above: bool, below: bool) -> str:
    if math.isfinite(least) and math.isfinite(most):
        return f"lie in {'(' if above else '['}{least:g}, {most:g}{')' if below else ']'}"
    if math.isfinite(least):
        return f"be above {least:g} and finite" if above else f"be a finite number of at least {least:g}"
    return "be a finite number"


def count_of(name: str, said: str) -> int:
    """A count as people write it: 200000, 200_000, 200k or 1.5M.

    Args:
        name: Said in the error.
        said: What was written.

    Raises:
        InputError: If it is no such count, or less than 1.
    """
    found = re.fullmatch(r"(\d[\d_]*(?:\.\d+)?)([kM]?)", said.strip())
    count = round(float(found[1].replace("_", "")) * {"": 1, "k": 1_000, "M": 1_000_000}[found[2]]) if found else 0
    if count < 1:
        raise InputError(f"{name} must be a count of at least 1, such as 200k or 1M, got {brief(said)}")
    return count
