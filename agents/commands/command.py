"""One sub-command: arguments, what is done with them, and how ``plasticity`` and a script of its own run it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from plasticity_env.common import cli

C = TypeVar("C")


@dataclass(frozen=True)
class Command(Generic[C]):
    """A sub-command. Its file loads no torch; ``main`` imports the work when it is called.

    Attributes:
        name: Its name, as it is typed after ``plasticity``.
        arguments: A dataclass; the docstrings of its fields are the help.
        main: The program; its docstring is shown by ``--help``.
        quick: Values that ``--quick_test`` has instead of the defaults, by the name of the argument.
    """

    name: str
    arguments: Callable[[], C]
    main: Callable[[C], None]
    quick: Mapping[str, Any] | None = None

    def run(self, argv: Sequence[str] | None = None, prog: str | None = None) -> None:
        """Read a command line, do it, and leave with the right exit code.

        Args:
            argv: The command line; this program's own when None.
            prog: What ``--help`` calls the program; the name of its file when None.
        """
        default = self.arguments()
        if self.quick is not None:
            default = cli.quick_defaults(default, self.quick, argv)
        cli.run(type(default), self.main, default=default, argv=argv, prog=prog)
