"""Bad input through every command, in one process: exit code 2, one sentence, nothing printed before it, nothing left behind."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.scripts import bad_files
from tests.scripts.bad_lines import rows
from tests.scripts.commands import COMMANDS


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    bad_files.make(folder)
    return folder


@pytest.mark.parametrize(("line", "said"), rows(), ids=[line for line, _ in rows()])
def test_bad_input_is_one_sentence_and_exit_2(bad, monkeypatch, capsys, line, said):
    monkeypatch.chdir(bad)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    before = {path: path.stat().st_mtime_ns for path in bad.rglob("*")}
    command, *words = shlex.split(line)
    capsys.readouterr()
    code = COMMANDS[command](words)
    out, err = capsys.readouterr()
    assert (code, out) == (2, ""), err
    assert err.startswith("error: ")
    assert err.endswith("\n")
    assert len(err.splitlines()) == 1, err
    assert said in err, err
    assert {path: path.stat().st_mtime_ns for path in bad.rglob("*")} == before


def test_every_command_is_in_the_table():
    assert len(rows()) >= 150
    assert {line.split()[0] for line, _ in rows()} == set(COMMANDS)
