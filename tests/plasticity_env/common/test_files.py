"""Files and folders that a crash leaves whole."""

from __future__ import annotations

import errno
import os
import shutil
import stat

import pytest

from plasticity_env import InputError
from plasticity_env.common.errors import first_line
from plasticity_env.common.files import LOCK, LineFile, clear_leftovers, new_folder, replace_file, write_text


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


def test_what_lies_behind_a_link_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "disk").mkdir()
    fill(tmp_path / "disk" / "folder", "one")
    (tmp_path / "disk" / "file").write_text("one")
    for name in ("folder", "file", "new"):
        (tmp_path / name).symlink_to(tmp_path / "disk" / name)
    fill(tmp_path / "folder", "two", replace=True)
    write_text(tmp_path / "file", "two")
    write_text(tmp_path / "new", "two")
    assert all((tmp_path / name).is_symlink() for name in ("folder", "file", "new"))
    assert (tmp_path / "disk" / "folder" / "text").read_text() == "two"
    assert [(tmp_path / "disk" / name).read_text() for name in ("file", "new")] == ["two", "two"]
    assert names(tmp_path / "disk") == ["file", "folder", "new"]


def test_errors_name_what_was_to_be_written_not_a_temporary_name(tmp_path):
    def fail(temporary):
        raise OSError(errno.ENOSPC, "No space left on device", str(temporary))

    with pytest.raises(OSError, match="No space left") as found:
        replace_file(tmp_path / "file", fail)
    assert found.value.filename == str(tmp_path / "file")
    with pytest.raises(OSError, match="No space left") as found, new_folder(tmp_path / "folder") as folder:
        fail(folder / "inside")
    assert found.value.filename == str(tmp_path / "folder")
    with pytest.raises(FileNotFoundError) as found, new_folder(tmp_path / "folder"):
        (tmp_path / "elsewhere").read_text()
    assert found.value.filename == str(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="No space left"), new_folder(tmp_path / "folder"):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")


def test_a_line_that_does_not_fit_leaves_none_of_itself(tmp_path):
    file = LineFile(tmp_path / "rows")
    file.write("one\n")
    real, room = file._file, iter([3])

    class Full:
        """A disk with room for a few bytes."""

        def write(self, data):
            for size in room:
                return real.write(data[:size])
            raise OSError(errno.ENOSPC, "No space left on device")

        def __getattr__(self, name):
            return getattr(real, name)

    file._file = Full()
    with pytest.raises(OSError, match="No space left") as found:
        file.write("second line\n")
    assert found.value.filename == str(tmp_path / "rows")
    assert (tmp_path / "rows").read_text() == "one\n"
    file.close()
    file.close()


def test_leftovers_of_a_killed_run_go_and_what_it_was_replacing_comes_back(tmp_path):
    models = tmp_path / "models"
    for name in (".a.77.0123abcd.tmp", ".a.77.0123abcd.old", ".b.77.0123abcd.old", "b"):
        (models / name).mkdir(parents=True)
        (models / name / "weights").write_text(name)
    (tmp_path / ".rows.jsonl.77.0123abcd.tmp").write_text("half")
    other = tmp_path / "another_run"
    other.mkdir()
    for name in (LOCK, ".x.77.0123abcd.tmp", "kept"):
        (other / name).write_text("")
    for name in (".hidden", ".notes.tmp", "x.77.0123abcd.tmp"):
        (tmp_path / name).write_text("the user's")
    clear_leftovers(tmp_path)
    assert names(models) == ["a", "b"]
    assert (models / "a" / "weights").read_text() == ".a.77.0123abcd.old"
    assert (models / "b" / "weights").read_text() == "b"
    assert names(tmp_path) == [".hidden", ".notes.tmp", "another_run", "models", "x.77.0123abcd.tmp"]
    assert names(other) == [LOCK, ".x.77.0123abcd.tmp", "kept"]


def test_beside_a_file_only_its_own_leftovers_go(tmp_path):
    for name in (".mine.77.0123abcd.tmp", ".other.77.0123abcd.tmp"):
        (tmp_path / name).write_text("")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / ".mine.77.0123abcd.tmp").write_text("")
    clear_leftovers(tmp_path, "mine")
    assert names(tmp_path) == [".other.77.0123abcd.tmp", "deep"]
    assert names(tmp_path / "deep") == [".mine.77.0123abcd.tmp"]


def test_a_killed_replacement_is_cleared_by_name(tmp_path):
    """The names that are written are the names that are cleared."""
    with new_folder(tmp_path / "folder") as folder:
        shutil.copytree(folder, tmp_path / "aside")
    os.rename(tmp_path / "aside", folder)
    shutil.rmtree(tmp_path / "folder")
    assert names(tmp_path) == [folder.name]
    clear_leftovers(tmp_path)
    assert names(tmp_path) == []
