"""Processes that work for this one: one that dies is named in a sentence, and none stays behind when this one ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any

from plasticity_env.common.errors import InputError

_GONE = (BrokenProcessPool, EOFError, BrokenPipeError, ConnectionResetError)  # how the parent learns of a death
_WAIT = 5.0  # seconds until a process that was asked to end is killed


@contextmanager
def worker_pool(workers: int, start: Callable[..., None], arguments: Sequence[Any] = ()) -> Iterator[ProcessPoolExecutor]:
    """A pool of fresh processes that ends with the block, and with this process however it ends.

    What the pool is asked for must be read (``Future.result``) inside the block. Where the block is left by Ctrl-C, SIGTERM or
    another error, work that has begun is not waited for.

    Args:
        workers: How many processes.
        start: Called in each as it begins; importable.
        arguments: Of ``start``.

    Raises:
        InputError: One of the processes died; the sentence names it.
    """
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin, (start, *arguments))
    children: list[BaseProcess] = []
    submit, before = pool.submit, set(multiprocessing.active_children())

    def noting(*work: Any, **more: Any) -> Any:
        future = submit(*work, **more)
        children.extend(p for p in multiprocessing.active_children() if p not in before and p not in children)
        return future

    pool.submit = noting  # type: ignore[method-assign]
    try:
        with deaths_named(children):
            yield pool
    except BaseException:
        end_processes(children)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def deaths_named(processes: Sequence[BaseProcess]) -> Iterator[None]:
    """Say in one sentence which of some processes died, where the block fails because one did.

    Around the steps of a vector environment whose environments are processes, ``processes`` is its own list of them
    (``AsyncVectorEnv.processes``, ``SubprocVecEnv.processes``).

    Args:
        processes: They may still be added to.

    Raises:
        InputError: One died.
    """
    try:
        yield
    except _GONE as error:
        for process in processes:
            process.join(_WAIT / 10)
        raise InputError(
            f"{_named(processes)}: what was finished is kept; run the same again, with fewer processes where memory ran out"
        ) from error


def end_processes(processes: Sequence[BaseProcess]) -> None:
    """Ask processes to end, and kill those that do not."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(_WAIT)
        if process.is_alive():
            process.kill()


def _named(processes: Sequence[BaseProcess]) -> str:
    """Which process died of what; those that were only ended because another one died are left out."""
    codes = [(process.pid, process.exitcode) for process in processes if process.exitcode]
    first = [found for found in codes if found[1] != -signal.SIGTERM] or codes
    if not first:
        return "a worker process is gone"
    pid, code = first[0]
    how = f"was ended by {signal.Signals(-code).name}" if code and code < 0 else f"ended with exit code {code}"
    return f"worker process {pid} {how}"


def _begin(start: Callable[..., None], *arguments: Any) -> None:
    """In a worker: leave Ctrl-C to the parent, end when it does, then begin."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    start(*arguments)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
