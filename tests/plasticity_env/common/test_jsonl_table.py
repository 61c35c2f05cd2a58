"""Cells of a study: what is appended is read back, and a line that was cut off is forgotten."""

from __future__ import annotations

import pytest

from plasticity_env import InputError
from plasticity_env.common.jsonl_table import CellFile, spread


def test_a_cut_line_is_forgotten_and_gone_with_the_next_cell(tmp_path):
    path = tmp_path / "deep" / "cells.jsonl"
    file = CellFile(path, lambda row: row["a"], "this test")
    assert file.read() == []
    for value in (1, 2, 3):
        file.append({"a": value})
    for cut in (path.read_bytes()[:-4], path.read_bytes()[:-1] + b"\xc3"):
        path.write_bytes(cut)
        assert file.read() == [1, 2]
    file.append({"a": 4})
    assert file.read() == [1, 2, 4]
    assert path.read_text().count("\n") == 3
    damaged = path.read_text().replace('"a": 2', '"a": 3')
    path.write_text(damaged)
    with pytest.raises(InputError, match=r"line 2 of .* is not a cell of this test .its check differs|it is damaged"):
        file.read()
    assert path.read_text() == damaged


def test_a_line_that_is_no_cell_is_an_error(tmp_path):
    path = tmp_path / "cells.jsonl"
    path.write_text('{"a": 1}\n{"b": 1}\n')
    with pytest.raises(InputError, match=r"line 2 of .* is not a cell of this test"):
        CellFile(path, lambda row: row["a"], "this test").read()


def test_spread():
    assert spread([1.0, 3.0], ".1f", ".2f") == "2.0 ± 1.41"
    assert spread([2.0], ".1f") == "2.0"


def test_a_last_cell_without_a_line_feed_is_kept(tmp_path):
    path = tmp_path / "cells.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}')
    file = CellFile(path, lambda row: row["a"], "this test")
    assert file.read() == [1, 2]
    with pytest.warns(UserWarning, match=r"2 of 2 lines of .* carry no check \(an earlier version wrote them\)"):
        file.append({"a": 3})
    file.append({"a": 4})
    assert file.read() == [1, 2, 3, 4]
    assert path.read_text().startswith('{"a": 1}\n{"a": 2}\n{"a": 3, "check": "')


@pytest.mark.parametrize("content", ["my notes", "a: 1\nb: 2", '{"other": 1}', "[1, 2]"])
def test_a_file_that_is_none_of_ours_is_refused_and_left_as_it_was(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_text(content)
    file = CellFile(path, lambda row: row["a"], "this test")
    with pytest.raises(InputError, match="this test"):
        file.read()
    assert path.read_text() == content
