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
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from plasticity_env.common.errors import InputError

_GONE = (EOFError, BrokenPipeError, ConnectionResetError)  # how whoever waits for a worker's answer learns that it died
_watched: set[int] = set()  # processes whose parent is watched; a forked copy has a number of its own
_WAIT = 5.0  # seconds until a process that was asked to end is killed


@contextmanager
def worker_pool(
    workers: int, start: Callable[..., object] | None = None, arguments: Sequence[Any] = ()
) -> Iterator[ProcessPoolExecutor]:
    """A pool of fresh processes that ends with the block, and with this process however it ends.

    What the pool is asked for must be read (``Future.result``) inside the block. Where the block is left by Ctrl-C, SIGTERM or
    another error, work that has begun is not waited for.

    Args:
        workers: How many processes.
        start: Called in each as it begins; importable. None: nothing is.
        arguments: Arguments of ``start``.

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
        yield pool
    except BrokenProcessPool as error:
        pool.shutdown(wait=True)  # its own thread reads how its processes ended
        raise _death(children) from error
    except BaseException:
        end_processes(children)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def deaths_named(processes: Sequence[BaseProcess]) -> Iterator[None]:
    """Say in one sentence which of some processes died; for a vector environment whose environments are processes.

    >>> with deaths_named(envs.processes):  # of Gymnasium's AsyncVectorEnv or Stable-Baselines3's SubprocVecEnv
    ...     envs.step(actions)

    Once one of them dies the others are ended: they are of no use without it, and where they hold each other's pipes open
    (the start method "fork"), whoever waits for its answer would wait forever.

    Args:
        processes: All of them.

    Raises:
        InputError: One died, and the block failed for it.
    """
    over, leave = multiprocessing.Pipe(duplex=False)
    died: list[BaseProcess] = []
    watcher = threading.Thread(target=_watch, args=(list(processes), over, died), daemon=True)
    watcher.start()
    try:
        yield
    except _GONE as error:
        watcher.join(_WAIT)
        raise _death(died or processes) from error
    finally:
        leave.close()
        watcher.join(_WAIT)


def end_processes(processes: Sequence[BaseProcess]) -> None:
    """Ask processes to end, and kill those that do not."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(_WAIT)
        if process.is_alive():
            process.kill()


def end_with_parent() -> None:
    """Let this process end as soon as the one that started it does, be it killed; for the beginning of a worker."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        assert parent is not None
        parent.join()
        os._exit(1)

    if parent is not None:
        threading.Thread(target=wait, daemon=True).start()


def daemon_ends_with_parent() -> None:
    """`end_with_parent` where this is a daemonic process of `multiprocessing`, as the workers of vector environments are.

    Such a process is meant to end with the one that started it. Forked ones outlive it where it is killed: each holds the
    pipes of the others open, and waits for orders that nobody can send any more. Calling it again does nothing.
    """
    if multiprocessing.current_process().daemon and os.getpid() not in _watched:
        _watched.add(os.getpid())
        end_with_parent()


def _watch(processes: list[BaseProcess], over: Connection, died: list[BaseProcess]) -> None:
    """Wait until one of some processes dies, note it and end the others; or until ``over`` is closed at its other end."""
    running = {process.sentinel: process for process in processes}
    while running:
        for ready in wait([over, *running]):
            if ready is over:
                return
            process = running.pop(ready)  # type: ignore[arg-type]
            process.join(_WAIT)
            if process.exitcode:
                died.append(process)
                for other in running.values():
                    other.kill()
                return


def _death(processes: Sequence[BaseProcess]) -> InputError:
    """The sentence about the process that died first; those that were ended because of it are left out."""
    codes = [(process.pid, process.exitcode) for process in processes if process.exitcode]
    first = [found for found in codes if found[1] != -signal.SIGTERM] or codes
    pid, code = first[0] if first else (None, None)
    how = f"was ended by {signal.Signals(-code).name}" if code and code < 0 else f"ended with exit code {code}"
    named = f"worker process {pid} {how}" if first else "a worker process is gone"
    return InputError(
        f"{named}: what was finished is kept; run the same again, with fewer processes where memory ran out"
    )


def _begin(start: Callable[..., object] | None, *arguments: Any) -> None:
    """In a worker: leave Ctrl-C to the parent, end when it does, then begin."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    if start is not None:
        start(*arguments)
