"""The one exception for bad input: a sentence that names the value, what is allowed and the way out."""

from __future__ import annotations

import difflib
import operator
import pickle
from collections.abc import Iterable


class InputError(Exception):
    """A value that the caller gave cannot be used; scripts print it as one sentence and exit with code 2."""


class UnexpectedArgumentError(InputError, TypeError):
    """A keyword argument that there is not: what Python itself calls a TypeError, and clients look for as one."""


def unknown(kind: str, value: object, allowed: Iterable[str], way_out: str = "") -> InputError:
    """Build the error for a name that is not in a registry.

    Args:
        kind: What the name stands for, for example ``"controller"``.
        value: The name that was given.
        allowed: The names that exist.
        way_out: What else the caller can do, appended to the sentence.

    Returns:
        The error, with a "did you mean" when a known name is close.
    """
    names = sorted(allowed)
    close = difflib.get_close_matches(str(value), names, n=1)
    guess = f" (did you mean {close[0]!r}?)" if close else ""
    return InputError(f"unknown {kind} {value!r}{guess}: known are {', '.join(names)}{way_out}")


def first_line(error: BaseException, length: int = 160) -> str:
    """The first line of an exception's message, cut to ``length`` characters; its type's name where it says nothing.

    What torch says of a file that it does not unpickle recommends to run the code in it: that is not passed on.
    """
    if isinstance(error, pickle.UnpicklingError) and "weights_only" in str(error):
        return "it holds more than tensors and plain values, or is not a file of torch's"
    lines = str(error).strip().splitlines()
    return lines[0][:length] if lines else type(error).__name__


def check_least(name: str, value: object, least: int) -> int:
    """Refuse what is not a whole number of at least ``least``; returns it as Python's own.

    Raises:
        InputError: The value is not one.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__") or not value >= least:  # type: ignore[operator]
        raise InputError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return operator.index(value)  # type: ignore[arg-type]
