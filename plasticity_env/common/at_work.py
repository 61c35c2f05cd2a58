"""One process at a time in a run's folder or on a growing file: the second is told so at once, before it does any work."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from plasticity_env.common.errors import InputError
from plasticity_env.common.files import LOCK, clear_leftovers, naming

_held = threading.local()  # locks of this thread, so that a program and its parts may both ask


@contextmanager
def at_work_in(folder: Path | None) -> Iterator[None]:
    """Be the only process that writes into a run's folder while the block lasts; a killed run's leftovers go first.

    The folder is made, which tells whether anything can be written there; where the block leaves it empty, it goes again.

    Args:
        folder: Folder of the run. None, for a folder of the program's own that nobody else can know: nothing is done.

    Raises:
        InputError: Another process is at work there.
        OSError: Nothing can be written there.
    """
    if folder is None:
        yield
        return
    with _alone(folder, folder / LOCK, "in"):
        clear_leftovers(folder)
        yield


@contextmanager
def at_work_on(path: Path) -> Iterator[None]:
    """Be the only process that writes a file (or replaces a folder) while the block lasts; see `at_work_in`.

    Raises:
        InputError: Another process is at work on it.
        OSError: Nothing can be written there.
    """
    with _alone(path, path.with_name(f".{path.name}{LOCK}"), "on"):
        clear_leftovers(path.parent, path.name)
        yield


@contextmanager
def _alone(place: Path, lock_file: Path, how: str) -> Iterator[None]:
    held: set[Path] = _held.__dict__.setdefault("locks", set())
    key = lock_file.absolute()
    if key in held:
        yield
        return
    made = [parent for parent in key.parents if not parent.exists()]
    lock = FileLock(key, timeout=0, thread_local=False)
    try:
        with naming(place):
            key.parent.mkdir(parents=True, exist_ok=True)
            fresh = not key.exists()
            key.touch()  # an error here says that nothing can be written; of a lock it would only be "taken"
            try:
                _acquire(lock, place, how)
            except OSError:
                if fresh:
                    key.unlink(missing_ok=True)
                raise
        held.add(key)
        yield
    finally:
        held.discard(key)
        if lock.is_locked:
            with suppress(OSError):  # read-only by now
                key.unlink(missing_ok=True)  # before it is released: whoever opened it meanwhile sees that it has gone
            lock.release()
        for parent in made:
            with suppress(OSError):  # not empty, or gone
                parent.rmdir()


def _acquire(lock: FileLock, place: Path, how: str) -> None:
    try:
        lock.acquire()
    except Timeout:
        thing = "folder" if how == "in" else "file"
        raise InputError(
            f"another process is at work {how} {str(place)!r}: wait until it is done, or name another {thing}"
        ) from None
