"""A script in a process of its own that hears Ctrl-C, even where the tests run in the background (there shells ignore it)."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def hearing_ctrl_c(script: str, *arguments: str) -> list[str]:
    """Command line of a script whose process raises KeyboardInterrupt on SIGINT."""
    path = str(ROOT / "scripts" / script)
    program = "import runpy, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    program += f"sys.argv = {[path, *arguments]!r}; runpy.run_path({path!r}, run_name='__main__')"
    return [sys.executable, "-c", program]
