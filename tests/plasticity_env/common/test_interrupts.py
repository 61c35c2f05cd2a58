"""SIGTERM ends a program as Ctrl-C does, with its own exit code; a full disk is one sentence and loses nothing."""

from __future__ import annotations

import errno
import os
import signal
from dataclasses import dataclass

import pytest
import torch

from plasticity_env.common import cli
from plasticity_env.common.files import replace_file, write_text
from plasticity_env.common.interrupts import Terminated, interrupts_between_steps, terminates_like_ctrl_c


@dataclass(frozen=True)
class Nothing:
    """No arguments."""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_one_word_and_its_exit_code(number, code, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["program"])
    kept = []
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it

    def main(_arguments):
        """Waits."""
        with interrupts_between_steps() as check:
            os.kill(os.getpid(), number)
            kept.append("the step is whole")
            check()
            kept.append("never reached")

    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as left:
            cli.run(Nothing, main)
    finally:
        signal.signal(signal.SIGINT, usual)
    assert left.value.code == code
    assert kept == ["the step is whole"]
    assert capsys.readouterr().err == "stopped\n"
    assert signal.getsignal(signal.SIGTERM) == before


def test_outside_of_steps_sigterm_arrives_at_once():
    with terminates_like_ctrl_c(), pytest.raises(Terminated):
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 128 vs 22"),
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
    ],
)
def test_a_full_disk_is_an_oserror_and_the_last_good_file_stays(tmp_path, error):
    path = tmp_path / "state.pt"
    replace_file(path, lambda place: torch.save({"step": 1}, place))

    def fail(place):
        place.write_bytes(b"half")
        raise error

    with pytest.raises(OSError, match="No space left"):
        replace_file(path, fail)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]


def test_another_error_is_not_taken_for_a_full_disk(tmp_path):
    with pytest.raises(RuntimeError, match="something else"):
        replace_file(tmp_path / "a", lambda place: (_ for _ in ()).throw(RuntimeError("something else")))
    write_text(tmp_path / "b", "text")
    assert (tmp_path / "b").read_text() == "text"
