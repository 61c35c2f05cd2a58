"""The growth ablation from the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments):
    command = [sys.executable, str(ROOT / "scripts" / "ablate_growth.py"), *map(str, arguments)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


@pytest.mark.slow
def test_it_prints_a_table_and_goes_on_where_it_was_cut(tmp_path):
    (tmp_path / "text.txt").write_text("To be, or not to be, that is the question. " * 400)
    sizes = ("--steps", 1, "--batch_size", 2, "--block_size", 16, "--test_blocks", 4, "--calibration_blocks", 2)
    where = ("--dataset", tmp_path / "text.txt", "--output", tmp_path / "cells.jsonl")
    first = run("--models", "bard-gpt2-4x4", "--seeds", 1, *sizes, *where)
    assert first.returncode == 0, first.stderr
    assert "| gradient_sensitivity, transfer |" in first.stdout
    again = run("--models", "bard-gpt2-4x4", "--seeds", 1, *sizes, *where)
    assert again.stdout == first.stdout
    assert "seed 0" not in again.stderr


def test_bad_input_is_one_sentence(tmp_path):
    result = run("--seeds", 0, "--output", tmp_path / "cells.jsonl")
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == "error: seeds must be at least 1, got 0"
