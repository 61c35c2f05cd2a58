"""Files and folders that a crash leaves whole."""

from __future__ import annotations

import os
import stat

import pytest

from plasticity_env import InputError
from plasticity_env.common.errors import first_line
from plasticity_env.common.files import new_folder, replace_file


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def fill(path, text, **options):
    with new_folder(path, **options) as folder:
        (folder / "text").touch()
        if not isinstance(text, str):
            raise text
        (folder / "text").write_text(text)


def test_a_folder_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "folder"
    with pytest.raises(KeyboardInterrupt):
        fill(path, KeyboardInterrupt)
    assert names(tmp_path) == []
    fill(path, "one")
    with pytest.raises(InputError, match="exists already"):
        fill(path, "two")
    fill(path, "two", replace=True)
    assert (path / "text").read_text() == "two"
    assert names(path.parent) == ["folder"]
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(path.parent.stat().st_mode)


@pytest.mark.parametrize("failing", [1, 2])
def test_a_replaced_folder_is_there_again_when_a_rename_fails(tmp_path, monkeypatch, failing):
    fill(tmp_path / "folder", "one")
    rename, count = os.replace, iter(range(1, 9))

    def fails_once(source, target):
        if next(count) == failing:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "replace", fails_once)
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "folder", "two", replace=True)
    assert (tmp_path / "folder" / "text").read_text() == "one"
    assert names(tmp_path) == ["folder"]


def test_what_a_killed_process_of_the_same_number_left_is_in_nobodys_way(tmp_path):
    for left in ("tmp", "old"):
        stale = tmp_path / f".folder.{os.getpid()}.{left}"
        stale.mkdir()
        (stale / "text").write_text("stale")
    fill(tmp_path / "folder", "one")
    fill(tmp_path / "folder", "two", replace=True)
    assert (tmp_path / "folder" / "text").read_text() == "two"


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "file"
    path.write_text("one")

    def half(temporary):
        temporary.write_text("ha")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        replace_file(path, half)
    assert path.read_text() == "one"
    assert names(tmp_path) == ["file"]


def test_first_lines():
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(ValueError("x" * 300), 20) == "x" * 20
    assert first_line(EOFError()) == "EOFError"
