"""The commands: the one place through which tests of bad command lines call the program."""

from __future__ import annotations

from collections.abc import Sequence

from plasticity_env.__main__ import main
from plasticity_env.agents.commands.command_table import command_names

COMMANDS: list[str] = command_names()


def code_of(argv: Sequence[str]) -> int:
    """Run a command line in this process; returns the exit code."""
    try:
        main(argv)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    return 0
