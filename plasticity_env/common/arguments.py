"""A command's arguments: one dataclass, whose nested dataclasses show all their fields or those that `flags` names.

The command line names an argument without its place (``--units``); a YAML file may say the place as well
(``settings: {units: heads+mlp}``) or leave it out (``units: heads+mlp``).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr
from dataclasses import fields, is_dataclass, replace
from itertools import takewhile
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from plasticity_env.common.command_words import checked
from plasticity_env.common.errors import InputError, unknown
from plasticity_env.common.values import LARGEST_COUNT, LARGEST_SEED, brief, user_path

C = TypeVar("C")


class _View:
    """A dataclass with some of its fields as flags; `flags` makes subclasses."""

    of: type
    fields: dict[str, str]  # flag -> field


def flags(of: type, *names: str, hidden: Sequence[str] = (), **renamed: str) -> Any:
    """Annotation of a nested dataclass of which a command shows some fields; the others keep the values of its default.

    >>> settings: Annotated[Settings, flags(Settings, "units", "repair", train_rate="learning_rate")] = Settings()

    Args:
        of: The nested dataclass.
        names: Fields that are flags; all of them when none is named.
        hidden: Fields that are not.
        **renamed: Fields that are flags of another name, by that name.
    """
    chosen = names or [entry.name for entry in fields(of) if entry.name not in renamed.values()]
    shown = {name: name for name in chosen if name not in hidden} | renamed
    return tyro.conf.arg(constructor=type(of.__name__, (_View,), {"of": of, "fields": shown}))


def parse(
    arguments: type[C],
    words: Sequence[str],
    default: C | None = None,
    description: str | None = None,
    prog: str | None = None,
) -> C:
    """Read a command line.

    Args:
        arguments: A dataclass.
        words: The command line, without ``--config``.
        default: What it begins with; the dataclass's own defaults when None.
        description: Shown by ``--help``.
        prog: What it calls the program; the name of its file when None.
    """
    default = arguments() if default is None else default
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(
                arguments,
                args=checked(words, *_flags_of(default)),
                default=default,
                prog=prog,
                description=description,
                config=(tyro.conf.OmitArgPrefixes,),
                use_underscores=True,
                registry=_REGISTRY,
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise InputError(_sentence(said.getvalue())) from None


def _sentence(box: str) -> str:
    """What the parser says within the frame that it draws: its first paragraph, without title and help."""
    lines = [line.strip("│ ") for line in box.splitlines() if line.strip() and line.strip()[0] not in "╭╰"]
    paragraph = takewhile(lambda line: line and line[0] != "─", lines)
    return " ".join(paragraph) or "the command line cannot be read: see --help"


def _flags_of(instance: Any) -> tuple[dict[str, Any], int]:
    """The type of each flag of a command, and how many words may stand without one."""
    kinds: dict[str, Any] = {}
    alone = 0
    hints = get_type_hints(type(instance), include_extras=True)
    inner = nested(instance)
    for entry in fields(instance):
        kind = hints[entry.name]
        marks = get_args(kind)[1:] if get_origin(kind) is Annotated else ()
        if tyro.conf.Suppress in marks:
            continue
        if tyro.conf.Positional in marks:
            alone += 1
        elif entry.name in inner:
            part = getattr(instance, entry.name)
            whole, _ = _flags_of(part)
            kinds |= {flag: whole[field] for flag, field in inner[entry.name].items() if field in whole}
        else:
            kinds[entry.name] = get_args(kind)[0] if marks else kind
    return kinds, alone


_REGISTRY = ConstructorRegistry()


@_REGISTRY.struct_rule
def _view_rule(info: StructTypeInfo) -> StructConstructorSpec | None:
    if not (isinstance(info.type, type) and issubclass(info.type, _View)):
        return None
    view, default = info.type, info.default
    whole: Any = ConstructorRegistry.get_struct_spec(replace(info, type=view.of))
    known = {spec.name: spec for spec in whole.fields}
    shown = tuple(replace(known[name], name=flag) for flag, name in view.fields.items())
    return StructConstructorSpec(
        lambda **values: replace(default, **{view.fields[flag]: _plain_range(value) for flag, value in values.items()}),
        shown,
    )


class _Range(tuple[float, ...]):
    """The default of a number or range, where the parser would load typeguard to see that a plain tuple fits."""


_under_way: list[type] = []  # dataclasses whose fields the parser's own rule is reading


@_REGISTRY.struct_rule
def _light_rule(info: StructTypeInfo) -> Any:
    """A dataclass as the parser reads it, but with types that it can check without typeguard: an eighth of --help."""
    if not is_dataclass(info.type) or info.type in _under_way:
        return None
    _under_way.append(info.type)
    try:
        spec = ConstructorRegistry.get_struct_spec(info)
    finally:
        _under_way.remove(info.type)
    if not isinstance(spec, StructConstructorSpec):
        return spec  # None, or what is wrong with the default
    return replace(spec, fields=tuple(map(_light, spec.fields)))


def _light(spec: StructFieldSpec) -> StructFieldSpec:
    if spec.type == float | tuple[float, float]:
        default = _Range(spec.default) if isinstance(spec.default, tuple) else spec.default
        return replace(spec, type=_Range, default=default)
    if isinstance(spec.type, UnionType):
        return replace(spec, type=Union[get_args(spec.type)])  # noqa: UP007
    return spec


def _plain_range(value: Any) -> Any:
    return tuple(value) if isinstance(value, _Range) else value


@_REGISTRY.primitive_rule
def _range_rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    if info.type is not _Range:
        return None
    return PrimitiveConstructorSpec(
        nargs=(1, 2),
        metavar="FLOAT|{FLOAT FLOAT}",
        instance_from_str=lambda words: float(words[0]) if len(words) == 1 else tuple(map(float, words)),
        is_instance=lambda value: isinstance(value, float | int | tuple),
        str_from_instance=lambda value: [str(part) for part in (value if isinstance(value, tuple) else (value,))],
    )


def nested(instance: Any) -> dict[str, dict[str, str]]:
    """The nested dataclasses among an instance's fields: the field of each of their flags, by the flag's name."""
    hints, found = get_type_hints(type(instance), include_extras=True), {}
    for entry in fields(instance):
        value = getattr(instance, entry.name)
        if is_dataclass(value):
            marks = (getattr(mark, "constructor_factory", None) for mark in get_args(hints[entry.name]))
            views = [made for mark in marks if mark and issubclass(made := mark(), _View)]
            found[entry.name] = views[0].fields if views else {each.name: each.name for each in fields(value)}
    return found


def plain(instance: Any) -> dict[str, Any]:
    """A dataclass's arguments as YAML and JSON hold them; `fill` reads them again."""
    inner = nested(instance)
    data = {entry.name: _plain(getattr(instance, entry.name)) for entry in fields(instance) if entry.name not in inner}
    for name, shown in inner.items():
        part = getattr(instance, name)
        whole = plain(part)
        data[name] = {flag: whole[field] for flag, field in shown.items()}
    return data


def flat(instance: Any) -> dict[str, Any]:
    """The same without places, by the names of the flags."""
    inner, data = nested(instance), plain(instance)
    for name in inner:
        part = data.pop(name)
        data.update(part)
    return data


def first_change(instance: Any, saved: dict[str, Any], names: Iterable[str]) -> tuple[str, Any, Any] | None:
    """The first argument that differs in saved ones, with its value there and here; what they lack is let be.

    Args:
        instance: A dataclass.
        saved: What `plain` wrote, with places or without.
        names: What is compared.
    """
    inside = (part for part in saved.values() if isinstance(part, dict))
    theirs, mine = saved | {name: value for part in inside for name, value in part.items()}, flat(instance)
    changed = (name for name in names if theirs.get(name, mine[name]) != mine[name])
    return next(((name, theirs[name], mine[name]) for name in changed), None)


def fill(instance: C, values: dict[str, Any], where: str = "the arguments") -> C:
    """Replace fields of a dataclass and of its nested ones, with their places or without, as a YAML file gives them.

    Args:
        instance: What stays where nothing is given.
        values: Values by name; lists are read as tuples and text as paths where a field wants them.
        where: Said in errors.

    Raises:
        InputError: A key that no flag has, or a value of another type.
    """
    inner = nested(instance)
    kinds = {entry.name: str(entry.type) for entry in fields(instance)}  # type: ignore[arg-type]
    changes: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {name: {} for name in inner}
    for key, value in values.items():
        if key in kinds and (key not in inner or is_dataclass(value)):
            changes[key] = (
                value if is_dataclass(value) else _read(key, value, kinds[key], getattr(instance, key), where)
            )
        elif key in inner:
            if not isinstance(value, dict):
                raise InputError(
                    f"{key} in {where} must hold a mapping of argument names to values, got {brief(value)}"
                )
            for flag, inside in value.items():
                if flag not in inner[key] and hasattr(getattr(instance, key), flag):
                    raise unknown(f"key in {key} of {where}", flag, inner[key])
                parts[key][inner[key].get(str(flag), str(flag))] = inside
        else:
            place = next((name for name, shown in inner.items() if key in shown), "")
            if not place:
                raise unknown(
                    f"key in {where}", key, kinds.keys() | {name for shown in inner.values() for name in shown}
                )
            parts[place][inner[place][key]] = value
    for name, part in parts.items():
        if part:
            changes[name] = fill(changes.get(name, getattr(instance, name)), part, where)
    return replace(instance, **changes)  # type: ignore[type-var]


def given(instance: Any, *names: str) -> bool:
    """Whether any of these fields differs from its default: defaults need no check, and the registries stay unread."""
    known = {entry.name: entry.default for entry in fields(instance)}
    return any(getattr(instance, name) != known[name] for name in names)


def check_counts(instance: Any, **least: int) -> None:
    """Refuse fields that are not whole numbers of at least so much; None is allowed where a field's type says so.

    Raises:
        InputError: A field is not a whole number, or is too small.
    """
    optional = {entry.name for entry in fields(instance) if "None" in str(entry.type)}
    for name, smallest in least.items():
        value = getattr(instance, name)
        if value is None and name in optional:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
            raise InputError(f"{name} must be a whole number of at least {smallest}, got {brief(value)}")
        largest = LARGEST_SEED if name.endswith("seed") else LARGEST_COUNT
        if value > largest:
            raise InputError(f"{name} {brief(value)} is more than {largest}: choose a smaller one")


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


_KINDS: dict[str, Any] = {"Path": str | Path, "str": str, "int": int, "float": int | float, "bool": bool}
_KINDS |= {"tuple": list | tuple, "Sequence": list | tuple, "None": type(None)}


def _read(key: str, value: Any, annotation: str, current: Any, where: str) -> Any:
    """A value from a file, of the kind that the field's annotation names."""
    named = [name for name in _KINDS if name in re.findall(r"\w+", annotation)]
    inner = [name for name in named if name not in ("tuple", "Sequence", "None")]
    if annotation.startswith("tuple"):
        named = ["tuple"]
        if _number(value) is not None:
            value = [value] if "..." in annotation else [value, value]  # a number is a range of one
    numbers = "float" in inner and "str" not in inner  # YAML 1.1 takes 3e-4, without a point, for text
    if isinstance(value, list | tuple):
        value = [each if not numbers or _number(each) is None else _number(each) for each in value]
    elif numbers and _number(value) is not None:
        value = _number(value)
    fits = any(_is(name, value) for name in named)
    if fits and inner and isinstance(value, list):
        fits = all(any(_is(name, each) for name in inner) for each in value)
    if named and not fits:
        like = f"of type {annotation}" if current is None else f"like {current!r}"
        raise InputError(f"{key} in {where} should be {like}, got {brief(value)}")
    if isinstance(value, list):
        return tuple(value)
    return user_path(value, f"{key} in {where}") if "Path" in named and isinstance(value, str) else value


def _is(name: str, value: Any) -> bool:
    return isinstance(value, _KINDS[name]) and (name == "bool") == isinstance(value, bool)


def _number(value: Any) -> int | float | None:
    """A number, or one that stands as text; None of anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    try:
        return float(value) if isinstance(value, str) else None
    except ValueError:
        return None
