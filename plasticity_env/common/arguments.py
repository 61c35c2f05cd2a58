"""A command's arguments: one dataclass, whose nested dataclasses show all their fields or those that `flags` names.

The command line names an argument without its place (``--units``); a YAML file may say the place as well
(``settings: {units: heads+mlp}``) or leave it out (``units: heads+mlp``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructTypeInfo

from plasticity_env.common.errors import InputError, unknown

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


def parse(arguments: type[C], words: Sequence[str], default: C | None = None, description: str | None = None) -> C:
    """Read a command line.

    Args:
        arguments: A dataclass.
        words: The command line, without ``--config``.
        default: What it begins with; the dataclass's own defaults when None.
        description: Shown by ``--help``.
    """
    return tyro.cli(
        arguments,
        args=list(words),
        default=arguments() if default is None else default,
        description=description,
        config=(tyro.conf.OmitArgPrefixes,),
        use_underscores=True,
        registry=_REGISTRY,
    )


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
        lambda **values: replace(default, **{view.fields[flag]: value for flag, value in values.items()}), shown
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
        saved: As `plain` wrote it, or without places.
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
        values: By name; lists are read as tuples and text as paths where a field wants them.
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
        elif key in inner and isinstance(value, dict):
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


def check_counts(instance: Any, **least: int) -> None:
    """Refuse fields that are not whole numbers of at least so much; None is one that is not given.

    Raises:
        InputError: One of them is not.
    """
    for name, smallest in least.items():
        value = getattr(instance, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < smallest):
            raise InputError(f"{name} must be a whole number of at least {smallest}, got {value!r}")


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


_KINDS: dict[str, Any] = {"Path": str | Path, "str": str, "int": int, "float": int | float, "bool": bool}
_KINDS |= {"tuple": list | tuple, "Sequence": list | tuple, "None": type(None)}


def _read(key: str, value: Any, annotation: str, current: Any, where: str) -> Any:
    """A value from a file, of the kind that the field's annotation names."""
    named = [name for name in _KINDS if name in re.findall(r"\w+", annotation)]
    if annotation.startswith("tuple"):
        named = ["tuple"]
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = [value] if "..." in annotation else [value, value]  # a number is a range of one
    fits = any(isinstance(value, _KINDS[name]) and (name == "bool") == isinstance(value, bool) for name in named)
    if named and not fits:
        like = f"of type {annotation}" if current is None else f"like {current!r}"
        raise InputError(f"{key} in {where} should be {like}, got {value!r}")
    if isinstance(value, list):
        return tuple(value)
    return Path(value) if "Path" in named and isinstance(value, str) else value
