"""Progress says little in a file, and is live on a terminal."""

from __future__ import annotations

import io
import time

from plasticity_env.common.progress import Progress


def test_progress_in_a_file_is_a_few_plain_lines() -> None:
    stream = io.StringIO()
    with Progress("training", total=1000, stream=stream, every=10.0) as progress:
        for _ in range(1000):
            progress.advance(perplexity=41.25, FLOPs_kept=0.5)
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("training 1000/1000 (100%)  perplexity 41.25  FLOPs kept 0.5")
    assert stream.getvalue().replace("\n", "").isprintable()


def test_progress_counts_time_left_from_where_a_resumed_loop_began() -> None:
    stream = io.StringIO()
    with Progress("training", total=1000, start=900, stream=stream, every=0.0) as progress:
        time.sleep(0.6)
        progress.advance(50)
    assert stream.getvalue().splitlines()[0].endswith("0:01 spent  0:01 left")


def test_progress_on_a_terminal_is_live() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with Progress("training", total=3, stream=stream) as progress:
        for _ in range(3):
            progress.advance(perplexity=40.0)
    assert "3/3" in stream.getvalue()
    assert "perplexity 40" in stream.getvalue()
