"""The adaptive study from the command line."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = str(Path(__file__).parents[2] / "scripts" / "study_adaptive.py")
SMALL = "--decisions 1 --train_steps 1 --batch_size 2 --block_size 16 --calibration_blocks 2 --reward_blocks 2 --test_blocks 2"


@pytest.fixture
def study(tmp_path, monkeypatch, capsys):
    def go(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [SCRIPT, *map(str, arguments)])
        code = 0
        try:
            runpy.run_path(SCRIPT, run_name="__main__")
        except SystemExit as stop:
            code = stop.code or 0
        return code, *capsys.readouterr()

    return go


@pytest.mark.slow
def test_it_writes_page_and_picture_and_goes_on_where_it_was_cut(study, tmp_path):
    """Slow: the study plays two stages under several arms and seeds."""
    (tmp_path / "other.txt").write_text("The mill stands by the river, and the river runs to the sea. " * 200)
    (tmp_path / "page.md").write_text("# Adaptive\n")
    where = ("--shift_dataset", "other.txt", "--shift_name", "river", "--page", "page.md", "--picture", "study.png")
    arguments = ("--stages", "home,shift", "--arms", "compressed,rule:random", "--seeds", 2, *SMALL.split(), *where)
    code, first, errors = study(*arguments)
    assert code == 0, errors
    assert "Test NLL on **river**" in first
    assert (tmp_path / "page.md").read_text().startswith("# Adaptive\n\n<!-- tables")
    assert (tmp_path / "study.png").stat().st_size > 0
    _, again, errors = study(*arguments)
    assert again == first
    assert "seed 0" not in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--seeds", 0, "--stages", "home"), "seeds must be a whole number of at least 1, got 0"),
        ((), "do not fit"),
        (("--stages", "home", "--arms", "rulez"), "did you mean 'rule'"),
        (("--share", 2), "share must lie in (0, 1)"),
    ],
)
def test_bad_input_is_one_sentence(study, tmp_path, arguments, message):
    code, _, errors = study(*arguments)
    assert code == 2
    assert errors.splitlines()[-1].startswith("error: ")
    assert message in errors.splitlines()[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--picture", "a.png", "--shown", "ann"), "no cells of arm 'ann' to draw heads of"),
        (("--picture", "a.png", "--drawn", "once,ann"), "no cells of arm 'ann' to draw"),
        (("--page", "page.md"), "holds only one of the marks"),
    ],
)
def test_what_cannot_be_drawn_or_written_is_refused_before_training(study, tmp_path, arguments, message):
    (tmp_path / "page.md").write_text("<!-- tables: made by scripts/study_adaptive.py -->\n")
    code, _, errors = study("--stages", "home", "--arms", "once", "--seeds", 1, *SMALL.split(), *arguments)
    assert code == 2
    assert message in errors.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["page.md"]
