"""Programs that are killed in the middle go on and end bit for bit as one that was never killed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from plasticity_env.agents.kill_programs import PROGRAMS
from plasticity_env.agents.kill_trials import KillConfig, differences
from plasticity_env.common.errors import InputError

ROOT = Path(__file__).parents[2]


def write(folder: Path, rows: list[dict], tensor: torch.Tensor) -> None:
    folder.mkdir()
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    torch.save({"weights": [tensor]}, folder / "state.pt")


def test_clocks_may_differ_and_nothing_else(tmp_path: Path) -> None:
    program = replace(PROGRAMS["grid"], results=("*.jsonl", "*.pt"))
    write(tmp_path / "a", [{"loss": float("nan"), "seconds": 1}, {"inner": {"seconds": 2, "x": [1]}}], torch.ones(2))
    write(tmp_path / "b", [{"loss": float("nan"), "seconds": 3}, {"inner": {"seconds": 4, "x": [1]}}], torch.ones(2))
    write(tmp_path / "c", [{"loss": 0.0}, {"inner": {"x": [1.5]}}], torch.ones(2) + torch.tensor([0, 1e-7]))
    assert differences(program, tmp_path / "a", tmp_path / "b") == []
    assert differences(program, tmp_path / "a", tmp_path / "c") == ["rows.jsonl", "state.pt"]
    (tmp_path / "b" / ".state.pt.1.0123abcd.tmp").write_text("")
    (tmp_path / "b" / "state.pt").unlink()
    found = differences(program, tmp_path / "a", tmp_path / "b")
    assert found == ["state.pt", ".state.pt.1.0123abcd.tmp is left"]
    assert differences(replace(program, results=("none",)), tmp_path / "a", tmp_path / "a") == ["no results"]


def test_programs_are_named() -> None:
    with pytest.raises(InputError, match=r"unknown program 'trian' \(did you mean 'train'\?\)"):
        KillConfig(programs="trian")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["train_steps", "cycle", "leaderboard"])
def test_a_killed_program_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    """Slow: a program is run whole, killed and resumed, each time in a process that imports torch."""
    done = subprocess.run(
        [
            *(
                sys.executable,
                str(ROOT / "scripts" / "kill_test.py"),
                "--programs",
                name,
                "--kills",
                "1",
                "--seed",
                "1",
            ),
            *("--output_dir", str(tmp_path / "kills")),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 killed runs of 1 programs went on and ended bit for bit" in done.stdout
