"""How far a long loop is: a live bar on a terminal, a plain line now and then in a log file."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

from plasticity_env.common.errors import InputError


def _clock(seconds: float) -> str:
    """Seconds as ``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Progress:
    """Progress of a loop with some numbers beside it, as a context manager.

    Args:
        title: What the loop does, one or two words.
        total: Steps at the end.
        start: Steps that were done before, for a resumed loop.
        stream: Stream to write to; None is standard error.
        every: Least seconds between two plain lines, where ``stream`` is no terminal.

    Raises:
        InputError: ``total`` is no more than zero.

    Example::

        with Progress("training", total=100_000) as progress:
            progress.advance(64, perplexity=41.2, flops_kept=0.71)
    """

    def __init__(
        self, title: str, total: int, start: int = 0, stream: TextIO | None = None, every: float = 10.0
    ) -> None:
        if total <= 0:
            raise InputError(f"total is {total}: a progress needs at least one step")
        self.title = title
        self.total = total
        self.done = start
        self._stream = stream or sys.stderr
        self._every = every
        self._numbers: dict[str, float] = {}
        self._resumed_at = start
        self._began = self._spoken = time.monotonic()
        self._bar: _Bar | None = None

    def __enter__(self) -> Progress:
        self._began = self._spoken = time.monotonic()
        if self._stream.isatty():
            self._bar = _Bar(self._stream, self.title, self.total, self.done)
        return self

    def advance(self, steps: int = 1, **numbers: float) -> None:
        """Go ``steps`` on and show ``numbers``, as `update` does."""
        self.update(self.done + steps, **numbers)

    def update(self, done: int, **numbers: float) -> None:
        """Go to step ``done`` and show ``numbers``; a number not given again keeps its last value."""
        self.done = done
        self._numbers.update(numbers)
        if self._bar:
            self._bar.show(done, self._text())
        elif time.monotonic() - self._spoken >= self._every:
            self._say()

    def _text(self) -> str:
        return "  ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in self._numbers.items())

    def _say(self) -> None:
        """Write one plain line."""
        spent = time.monotonic() - self._began
        walked = self.done - self._resumed_at
        left = (
            f"{_clock(spent / walked * (self.total - self.done))} left" if walked > 0 and self.done < self.total else ""
        )
        parts = [f"{self.title} {self.done}/{self.total} ({self.done / self.total:.0%})", self._text()]
        parts += [f"{_clock(spent)} spent", left]
        print("  ".join(part for part in parts if part), file=self._stream, flush=True)
        self._spoken = time.monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.close()
        else:
            self._say()


class _Bar:
    """The live bar."""

    def __init__(self, stream: TextIO, title: str, total: int, done: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}", markup=False),
            TimeRemainingColumn(compact=True),
        )
        self._rich = RichProgress(*columns, console=Console(file=stream))
        self._task = self._rich.add_task(title, total=total, completed=done, numbers="")
        self._rich.start()

    def show(self, done: int, numbers: str) -> None:
        self._rich.update(self._task, completed=done, numbers=numbers)

    def close(self) -> None:
        self._rich.stop()
