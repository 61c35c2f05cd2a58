"""The commands, each as a function of its command line: the one list that tests of command lines go through."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "scripts"
Main = Callable[[Sequence[str]], int]


def _main(script: Path) -> Main:
    def main(argv: Sequence[str]) -> int:
        before = sys.argv
        sys.argv = [str(script), *argv]
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else int(bool(stop.code))
        finally:
            sys.argv = before
        return 0

    return main


COMMANDS: dict[str, Main] = {script.stem: _main(script) for script in sorted(SCRIPTS.glob("*.py"))}
