"""Progress of a run: a bar on a terminal, one plain line every few seconds when piped."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from plasticity_env.agents.pretraining.pretrain import Progress as TrainingProgress


class Display:
    """Context manager, called with every `TrainingProgress`: smoothed loss, tokens per second, time left."""

    def __init__(self, name: str, every_seconds: float = 10.0) -> None:
        self._name = name
        self._every = every_seconds
        self._console = Console()
        self._bar: Progress | None = None
        self._loss = 0.0
        self._first: TrainingProgress | None = None
        self._last_line = 0.0

    def __enter__(self) -> Display:
        """Start the bar if this is a terminal."""
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
            self._bar = Progress(*columns, TimeRemainingColumn(), console=self._console)
            self._bar.start()
            self._task = self._bar.add_task(self._name, total=None, text="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the bar."""
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, now: TrainingProgress) -> None:
        """Show the state after one step."""
        if self._first is None:
            self._first, self._loss = now, now.loss
        self._loss += 0.05 * (now.loss - self._loss)
        elapsed = now.seconds - self._first.seconds
        rate = (now.tokens - self._first.tokens) / elapsed if elapsed > 0 else 0.0
        text = f"loss {self._loss:.3f}  {rate:,.0f} tokens/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=now.step, total=now.steps, text=text)
        elif now.seconds - self._last_line >= self._every or now.step == now.steps:
            self._last_line = now.seconds
            left = (now.steps - now.step) * now.tokens / now.step / rate if rate else 0.0
            clock = time.strftime("%H:%M:%S", time.gmtime(left))
            print(f"{self._name}  step {now.step}/{now.steps}  {text}  {clock} left", flush=True)
