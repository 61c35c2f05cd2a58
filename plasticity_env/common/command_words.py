"""The words of a command line, checked before they are parsed: each flag is known, and its value is of its kind.

Booleans may be written as sweeps write them: ``--flag``, ``--no_flag``, ``--flag=False``, ``--flag false``.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from plasticity_env.common.errors import InputError
from plasticity_env.common.values import user_path

TRUTHS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
HELP = ("-h", "--help")
_NO = "no_"
_SCALARS: dict[Any, tuple[str, Callable[[str], Any]]] = {  # type -> what it is called, how a word is read
    int: ("a whole number", int),
    float: ("a number", float),
    str: ("text", str),
    Path: ("a path", str),
}


def checked(words: Sequence[str], kinds: Mapping[str, Any], positional: int = 0) -> list[str]:
    """The words as the parser takes them.

    Args:
        words: A command line.
        kinds: Type of each flag.
        positional: How many words may stand without a flag.

    Raises:
        InputError: A flag that is not known, a value of another kind, or none where one is needed.
    """
    if any(word in HELP or word.startswith("--tyro-") for word in words):
        return list(words)
    result, flags = _split(words)
    if len(result) > positional:
        raise InputError(f"{result[positional]!r} belongs to no flag: write --name value, or --help to see the names")
    for written, values in flags:
        name = written.removeprefix("--").replace("-", "_")
        plain = name.removeprefix(_NO) if name not in kinds else name
        if plain not in kinds or (plain != name and kinds[plain] is not bool):
            raise _no_flag(written, kinds)
        kind = kinds[plain]
        if kind is bool:
            result.append(_switch(written, values, plain == name, f"--{plain}", f"--{_NO}{plain}"))
            continue
        takes = _takes(kind)
        if takes is not None and not any(_fits(member, values) for member in takes):
            given = f"got {' '.join(values)!r}" if values else "and none is given"
            raise InputError(f"{written} wants {' or '.join(map(_called, takes))}, {given}")
        if takes is not None and Path in takes:
            values = [value if value == "None" else str(user_path(value, written)) for value in values]
        result += [f"{written}={values[0]}"] if len(values) == 1 and values[0].startswith("-") else [written, *values]
    return result


def _no_flag(written: str, kinds: Mapping[str, Any]) -> InputError:
    close = difflib.get_close_matches(written[2:].replace("-", "_"), kinds, n=1)
    guess = f" (did you mean '--{close[0]}'?)" if close else ""
    return InputError(f"unknown flag {written!r}{guess}: --help lists all flags")


def _split(words: Sequence[str]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Words before the first flag, and each flag with its values."""
    first: list[str] = []
    flags: list[tuple[str, list[str]]] = []
    for word in words:
        if word.startswith("--"):
            flag, equals, value = word.partition("=")
            flags.append((flag, [value] if equals else []))
        elif flags:
            flags[-1][1].append(word)
        else:
            first.append(word)
    return first, flags


def _switch(written: str, values: list[str], positive: bool, on: str, off: str) -> str:
    if len(values) > 1 or (values and values[0].lower() not in TRUTHS):
        raise InputError(f"{written} wants True or False, or nothing behind it; got {' '.join(values)!r}")
    value = TRUTHS[values[0].lower()] if values else True
    return on if value == positive else off


def _takes(kind: Any) -> list[Any] | None:
    """The members of a union, without None; None where there is one that is not known here, which the parser judges."""
    members = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    plain = [member for member in members if member is not NoneType]
    known = all(each in _SCALARS or get_origin(each) in (tuple, Literal) for each in plain)
    inner = all(item in _SCALARS for each in plain if get_origin(each) is tuple for item in _items(each))
    if not (known and inner):
        return None
    return [*plain, NoneType] if NoneType in members else plain


def _items(kind: Any) -> tuple[Any, ...]:
    return tuple(item for item in get_args(kind) if item is not Ellipsis)


def _fits(kind: Any, values: list[str]) -> bool:
    """Whether words are of a kind."""
    if kind is NoneType:
        return values == ["None"]
    if get_origin(kind) is Literal:
        return len(values) == 1 and values[0] in map(str, get_args(kind))
    if get_origin(kind) is not tuple:
        return len(values) == 1 and _reads(kind, values[0])
    items = _items(kind)
    if Ellipsis in get_args(kind):
        return all(_reads(items[0], value) for value in values)
    return len(values) == len(items) and all(map(_reads, items, values))


def _reads(kind: Any, word: str) -> bool:
    try:
        _SCALARS[kind][1](word)
    except ValueError:
        return False
    return True


def _called(kind: Any) -> str:
    if kind is NoneType:
        return "None"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if get_origin(kind) is not tuple:
        return _SCALARS[kind][0]
    items = _items(kind)
    each = _SCALARS[items[0]][0].removeprefix("a ")
    return f"{each}s with blanks between" if Ellipsis in get_args(kind) else f"{len(items)} {each}s"
