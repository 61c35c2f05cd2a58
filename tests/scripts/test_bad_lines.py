"""Bad input through every command, in one process: exit code 2, one sentence, nothing printed before it, nothing left behind."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.scripts import bad_files
from tests.scripts.commands import COMMANDS, code_of


def rows() -> list[tuple[str, str]]:
    """(command line, part of the sentence): the lines of ``bad_lines.txt``, whose files are those of `bad_files`."""
    lines = Path(__file__).with_name("bad_lines.txt").read_text(encoding="utf-8").splitlines()
    parts = [line.partition(" | ") for line in lines if line and not line.startswith("#")]
    return [(line, said) for line, _, said in parts]


ROWS = rows()


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    bad_files.make(folder)
    return folder


def _state(folder: Path) -> dict[Path, int]:
    """When each file was written, and which folders there are; a lock that came and went leaves nothing."""
    return {path: 0 if path.is_dir() else path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize(("line", "said"), ROWS, ids=[line for line, _ in ROWS])
def test_bad_input_is_one_sentence_and_exit_2(bad, monkeypatch, capsys, line, said):
    monkeypatch.chdir(bad)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    before = _state(bad)
    capsys.readouterr()
    code = code_of(shlex.split(line))
    out, err = capsys.readouterr()
    assert (code, out) == (2, ""), err
    assert err.startswith("error: ")
    assert err.endswith("\n")
    assert len(err.splitlines()) == 1, err
    assert said in err, err
    assert _state(bad) == before


def test_every_command_is_in_the_table():
    assert len(ROWS) >= 150
    assert all(said for _, said in ROWS)
    assert set(COMMANDS) <= {line.split()[0] for line, _ in ROWS}
