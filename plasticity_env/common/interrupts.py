"""Ctrl-C and SIGTERM: an end that keeps what was done, between steps and never in the middle of one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived: whatever ends well on Ctrl-C ends as well on this."""


@contextmanager
def terminates_like_ctrl_c() -> Iterator[None]:
    """Let SIGTERM raise `Terminated` in the main thread instead of ending the process at once."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
        yield
        return

    def end(signum: int, frame: Any) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def interrupts_between_steps() -> Iterator[Callable[[], None]]:
    """Hold Ctrl-C and SIGTERM back until the function that this yields is called; a second one is not held back.

    Outside the main thread, where signals do not arrive, and where Ctrl-C is ignored (a job in the background of a shell), it
    changes nothing.
    """
    asked: type[KeyboardInterrupt] | None = None

    def note(signum: int, frame: Any) -> None:
        nonlocal asked
        kind = Terminated if signum == signal.SIGTERM else KeyboardInterrupt
        if asked is not None:
            raise kind
        asked = kind

    def check() -> None:
        if asked is not None:
            raise asked

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    before = {
        number: signal.signal(number, note)
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
