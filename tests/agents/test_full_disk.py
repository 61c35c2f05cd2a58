"""A disk that is full, or no longer writable, in the middle: one sentence with the path, exit 2, and what was kept goes on."""

from __future__ import annotations

import errno
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from plasticity_env.__main__ import main
from plasticity_env.agents.kill_programs import PROGRAMS, Program
from plasticity_env.agents.kill_trials import differences
from plasticity_env.common.digests import load_archive
from plasticity_env.common.files import LineFile


@contextmanager
def writes_fail_from(number: float, code: int) -> Iterator[Callable[[], int]]:
    """Let every write from the n-th on fail; temporary files beside it can still be made, as on a disk with a little room.

    Yields:
        A function that returns how many writes there were.
    """
    count, rename, append = 0, os.replace, LineFile.write

    def spend() -> None:
        nonlocal count
        count += 1
        if count >= number:
            raise OSError(code, os.strerror(code))

    def replace(source: Path, target: Path) -> None:
        spend()
        rename(source, target)

    def write(self: LineFile, text: str) -> None:
        try:
            spend()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        append(self, text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", replace)
        patch.setattr(LineFile, "write", write)
        yield lambda: count


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """Run a program in this process; returns its exit code."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
    threads = torch.get_num_threads()

    def run(program: Program, place: Path, resume: bool = False) -> int:
        line = program.line(place, resume)
        monkeypatch.setattr(sys, "argv", ["plasticity", *line])
        try:
            main()
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    yield run
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train", "es", "cycle", "grid", "leaderboard"])
def test_a_full_disk_is_one_sentence_and_what_was_kept_goes_on(name: str, tmp_path: Path, play, capsys) -> None:
    """Slow: each program is run whole, twice against a full disk, and resumed."""
    program = PROGRAMS[name]
    assert play(program, tmp_path / "whole") == 0
    for number, code in ((2, errno.ENOSPC), (9, errno.EROFS)):
        place = tmp_path / str(number)
        capsys.readouterr()
        with writes_fail_from(number, code):
            if play(program, place) == 0:
                break  # it does not write so often
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith(f"error: {os.strerror(code)}: {place}")
        assert ".tmp" not in said
        if (place / program.ready).is_file() and (place / program.ready).stat().st_size:
            assert play(program, place, resume=True) == 0
            assert differences(program, tmp_path / "whole", place) == []


@pytest.mark.slow
def test_a_run_that_learns_online_keeps_its_last_checkpoint(tmp_path: Path, play, capsys) -> None:
    """Slow: five short runs of the cycle. What is lost lies between the last checkpoint and the write that failed."""
    program = PROGRAMS["online"]
    with writes_fail_from(math.inf, 0) as writes:
        assert play(program, tmp_path / "whole") == 0
    for share, code in ((0.5, errno.ENOSPC), (0.8, errno.EROFS)):
        place = tmp_path / str(share)
        capsys.readouterr()
        with writes_fail_from(int(share * writes()), code):
            assert play(program, place) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith(f"error: {os.strerror(code)}: {place}")
        assert ".tmp" not in said
        assert (place / program.ready).is_file()
        load_archive(place / "controller.pt")
        assert play(program, place, resume=True) == 0
        assert differences(program, tmp_path / "whole", place) == []


@pytest.mark.parametrize("name", ["es", "leaderboard", "study"])
def test_an_unwritable_place_is_found_before_the_work(
    name: str, tmp_path: Path, play, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    def no_lock(*_: object, **__: object) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    from filelock import FileLock

    monkeypatch.setattr(FileLock, "_acquire", no_lock)
    assert play(PROGRAMS[name], tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: Read-only file system: {tmp_path / 'run'}")
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "run").exists()
