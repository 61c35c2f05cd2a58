"""The grid from the command line."""

from __future__ import annotations

import json

SCRIPT = "neural_plasticity_experiment.py"


def test_a_quick_grid_leaves_its_files_and_goes_on_where_it_was_cut(tmp_path, run_here):
    text, folder = tmp_path / "text.txt", tmp_path / "grid"
    text.write_text("To be, or not to be, that is the question: whether 'tis nobler in the mind. " * 400)
    arguments = [
        "--quick_test",
        "--dataset",
        text,
        "--max_length",
        16,
        "--calibration_blocks",
        4,
        "--training_steps",
        2,
    ]
    arguments += ["--growth_percentages", "0.2", "--output_dir", folder, "--save_visualizations"]
    first = run_here(SCRIPT, *arguments)
    assert first.returncode == 0, first.stderr
    assert "| 30% | none | revive | 20% |" in first.stdout
    cells = folder / "cells.jsonl"
    lines = cells.read_text().splitlines()
    assert len(lines) == 5  # control, the same size at once, nothing back, grown, revived
    assert (folder / "table.md").read_text().startswith("**bard-gpt2-4x4 on")
    assert (folder / "visualizations" / "recovery.png").stat().st_size > 10_000
    assert json.loads((folder / "config.json").read_text())["setting"]["training_steps"] == 2
    cells.write_text("".join(line + "\n" for line in lines[:4]) + lines[4][:50])
    again = run_here(SCRIPT, *arguments)
    assert again.stdout == first.stdout
    assert sum(line.startswith("seed 0") for line in again.stderr.splitlines()) == 1


def test_bad_input_is_one_sentence(tmp_path, run_here):
    result = run_here(SCRIPT, "--quick_test", "--pruning_levels", "0.1,1.2", "--output_dir", tmp_path / "grid")
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == "error: pruning_levels must lie in [0, 1), got 1.2"
    assert not (tmp_path / "grid").exists()
