"""What the tests let Ray run in other processes; a module of its own, which imports next to nothing."""

from __future__ import annotations

import os
import signal
import time


def scaled(shared, item):
    assert not shared.flags.writeable  # read where it lies
    return float(shared.sum()) * item


def fails(item):
    if item == 2:
        raise ValueError("two cannot be used")
    return item


def dies_once(item):
    path, number = item
    mark = path / str(number)
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number * 10


def dies(item):
    os.kill(os.getpid(), signal.SIGKILL)


def dies_at_two(item):
    return item if item < 2 else dies(item)


def where(shared, item):
    """The node that the item ran on, and whether the shared array lies in that node's object store."""
    import ray

    time.sleep(0.3)  # so that one node does not take all
    return ray.get_runtime_context().get_node_id(), not shared.flags.writeable


def slow_square(item):
    time.sleep(0.5)
    return item * item
