"""Scripts run inside this process: importing torch and transformers takes longer than most of them."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

SCRIPTS = Path(__file__).parents[2] / "scripts"


class Done(NamedTuple):
    """What a script left: its exit code and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """Run a script as ``__main__`` with a command line of its own, in the test's folder."""

    def go(script: str, *arguments: object) -> Done:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        monkeypatch.delenv("WANDB_API_KEY", raising=False)
        monkeypatch.setattr(sys, "argv", [str(SCRIPTS / script), *map(str, arguments)])
        threads, code = torch.get_num_threads(), 0
        capsys.readouterr()
        try:
            runpy.run_path(str(SCRIPTS / script), run_name="__main__")
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            torch.set_num_threads(threads)  # some scripts run on one
        return Done(code, *capsys.readouterr())

    return go
