"""Two processes on one folder or file: the second is told at once, and nothing stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from plasticity_env.common.at_work import at_work_in, at_work_on
from plasticity_env.common.errors import InputError
from plasticity_env.common.files import LOCK

HOLD = """
import sys, pathlib, plasticity_env.common.at_work as a
with a.{}(pathlib.Path(sys.argv[1])):
    print("in", flush=True)
    sys.stdin.read()
"""


def holder(how: str, path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(how), str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n"
    return process


@pytest.mark.parametrize("way", [at_work_in, at_work_on])
def test_the_second_process_is_told_and_a_killed_one_bars_nobody(tmp_path: Path, way) -> None:
    place = tmp_path / "deep" / "thing"
    process = holder(way.__name__, place)
    try:
        with (
            pytest.raises(
                InputError, match=r"another process is at work .*thing.*: wait until it is done, or name another"
            ),
            way(place),
        ):
            pytest.fail("two at once")
        with way(place.with_name("another")):
            pass
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    with way(place):
        pass
    assert list(tmp_path.rglob("*lock")) == []


def test_a_program_and_its_parts_may_both_ask(tmp_path: Path) -> None:
    with at_work_in(tmp_path / "run"), at_work_on(tmp_path / "run" / "cells"):
        with at_work_in(tmp_path / "run"), at_work_on(tmp_path / "run" / "cells"):
            pass
        assert (tmp_path / "run" / LOCK).exists(), "the outer one still holds it"
        (tmp_path / "run" / "cells").write_text("")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["cells"]


def test_a_place_that_stays_empty_is_gone_afterwards(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="bad"), at_work_in(tmp_path / "a" / "b"):
        raise InputError("bad")
    with at_work_on(tmp_path / "a" / "cells"):
        pass
    with at_work_in(None):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="run") as found, at_work_in(tmp_path / "file" / "run"):
        pytest.fail("there is no such place")
    assert found.value.filename == str(tmp_path / "file" / "run")


def test_leftovers_go_first(tmp_path: Path) -> None:
    for name in (".cells.1.0123abcd.tmp", ".config.1.0123abcd.tmp"):
        (tmp_path / name).write_text("")
    with at_work_on(tmp_path / "cells"):
        assert not (tmp_path / ".cells.1.0123abcd.tmp").exists()
        assert (tmp_path / ".config.1.0123abcd.tmp").exists()
    with at_work_in(tmp_path):
        assert not (tmp_path / ".config.1.0123abcd.tmp").exists()
