"""The sub-commands by name; a file is imported when its command is asked for, ``--help`` reads its first line."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from plasticity_env.agents.commands.command import Command
from plasticity_env.common.errors import unknown

_FOLDER, _END = Path(__file__).parent, "_command.py"


def command_names() -> list[str]:
    """Names of the sub-commands, as one types them."""
    return sorted(path.name.removesuffix(_END).replace("_", "-") for path in _FOLDER.glob(f"*{_END}"))


def says(name: str) -> str:
    """What a sub-command is, in a few words: the first line of its file."""
    with (_FOLDER / _file(name)).open(encoding="utf-8") as file:
        return file.readline().strip().strip('"').partition(": ")[2].rstrip(".")


def find_command(name: str) -> Command[Any]:
    """Import a sub-command.

    Raises:
        InputError: No command has this name.
    """
    if name not in command_names():
        raise unknown("command", name, command_names())
    module = importlib.import_module(f"{__package__}.{_file(name).removesuffix('.py')}")
    command: Command[Any] = module.COMMAND
    return command


def _file(name: str) -> str:
    return f"{name.replace('-', '_')}{_END}"
