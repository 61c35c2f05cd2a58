"""What every command line shares: YAML defaults, one sentence and exit code 2 on bad input, a word about the machine."""

from __future__ import annotations

import math
import os
import platform
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml

from plasticity_env.common.arguments import fill, parse
from plasticity_env.common.errors import InputError, first_line
from plasticity_env.common.interrupts import Terminated, terminates_like_ctrl_c
from plasticity_env.common.places import check_place
from plasticity_env.common.plugins import check_plugins
from plasticity_env.common.values import LARGEST_SEED, brief, user_path

C = TypeVar("C")


def run(
    arguments: type[C],
    main: Callable[[C], None],
    description: str | None = None,
    default: C | None = None,
    argv: Sequence[str] | None = None,
    prog: str | None = None,
) -> None:
    """Parse the command line into a dataclass, call ``main`` with it, and leave with the right exit code.

    ``--config FILE.yaml`` gives defaults that flags override. Bad input prints one sentence and exits 2, Ctrl-C exits 130,
    SIGTERM 143.

    Args:
        arguments: A dataclass; its field docstrings are the help.
        main: The program.
        description: Shown by ``--help``; ``main``'s docstring when None.
        default: Values of the arguments that nothing else gives; the dataclass's own when None.
        argv: The command line; this program's own when None.
        prog: What ``--help`` calls the program; the name of its file when None.
    """
    try:
        check_plugins()
        given = sys.argv[1:] if argv is None else argv
        words, filled = _defaults(arguments() if default is None else default, given)
        parsed = parse(arguments, words, filled, description or main.__doc__, prog)
        check_parsed(parsed)
        parsed = on_this_machine(parsed)
        with terminates_like_ctrl_c():
            main(parsed)
    except InputError as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "))
    except KeyboardInterrupt as error:
        print("stopped", file=sys.stderr)
        sys.exit(143 if isinstance(error, Terminated) else 130)


def _refuse(sentence: str) -> NoReturn:
    print(f"error: {' '.join(sentence.split())}", file=sys.stderr)
    sys.exit(2)


def on_this_machine(arguments: C) -> C:
    """Arguments whose ``device`` is auto with the one that is meant: CUDA where there is one, else the CPU.

    Args:
        arguments: A dataclass; nested ones are looked at too.
    """
    changes: dict[str, Any] = {}
    for each in fields(arguments):  # type: ignore[arg-type]
        value = getattr(arguments, each.name)
        if is_dataclass(value) and not isinstance(value, type):
            inner = on_this_machine(value)
            if inner is not value:
                changes[each.name] = inner
        elif each.name == "device" and value == "auto":
            import torch

            changes[each.name] = "cuda" if torch.cuda.is_available() else "cpu"
    return replace(arguments, **changes) if changes else arguments  # type: ignore[type-var]


FOLDERS, FILES = ("output_dir", "folder"), ("output", "record", "page", "docs", "picture")


def check_parsed(arguments: Any) -> None:
    """Refuse what would only fail after the work: places that cannot be written to, and seeds that no generator takes.

    Args:
        arguments: A dataclass; nested ones are looked at too.

    Raises:
        InputError: A folder that is a file or lies in one, a file that is a folder, or a seed that is too large.
        OSError: A place where nothing can be written.
    """
    for each in fields(arguments):
        name, value = each.name, getattr(arguments, each.name)
        if is_dataclass(value):
            check_parsed(value)
        elif isinstance(value, Path) and name in (*FOLDERS, *FILES):
            check_place(value, name in FOLDERS, f"--{name}")
        elif name.endswith("seed") and isinstance(value, int) and not 0 <= value <= LARGEST_SEED:
            raise InputError(f"--{name} must be a whole number from 0 to {LARGEST_SEED}, got {value}")


def quick_defaults(arguments: C, quick: Mapping[str, Any], argv: Sequence[str] | None = None) -> C:
    """What a command line begins with: other values where it says ``--quick_test``, so that flags that are given still count.

    Args:
        arguments: The usual defaults.
        quick: What a quick test has instead, by name.
        argv: The command line; this program's own when None.
    """
    words = sys.argv[1:] if argv is None else argv
    asked = any(word.replace("-", "_") == "__quick_test" for word in words)
    return fill(arguments, dict(quick)) if asked else arguments


def numbers(text: str, name: str) -> tuple[float, ...]:
    """Read comma-separated numbers.

    Raises:
        InputError: Something in between is no finite number.
    """
    try:
        found = tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        found = (math.nan,)
    if not all(map(math.isfinite, found)):
        raise InputError(f"--{name} wants numbers separated by commas, for example 0.1,0.3; got {brief(text)}")
    return found


def words(text: str) -> list[str]:
    """Read comma-separated names."""
    return [part.strip() for part in text.split(",") if part.strip()]


def machine() -> str:
    """Processor, cores, memory, device and library versions, for beside a measured figure."""
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    threads = torch.get_num_threads()
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB, {device}, {threads} thread{'s' * (threads != 1)}, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def command() -> str:
    """The command line that is running, as one would type it."""
    program = Path(sys.argv[0])
    called = ["plasticity"] if program.stem in ("plasticity", "__main__") else ["python", os.path.relpath(program)]
    return shlex.join([*called, *sys.argv[1:]])


def _defaults(default: C, argv: Sequence[str]) -> tuple[list[str], C]:
    rest: list[str] = []
    iterator = iter(argv)
    for word in iterator:
        if word == "--config" or word.startswith("--config="):
            name = word.partition("=")[2] or next(iterator, "")
            if not name:
                raise InputError("--config wants a YAML file, and none is given")
            path = user_path(name, "--config")
            default = fill(default, _read_yaml(path), str(path))
        else:
            rest.append(word)
    return rest, default


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"no config file at {str(path)!r}: give a YAML file")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise InputError(f"{str(path)!r} is not YAML ({first_line(error)})") from error
    if not isinstance(data, dict):
        raise InputError(f"{str(path)!r} must hold a mapping of argument names to values, got {brief(data)}")
    return data
