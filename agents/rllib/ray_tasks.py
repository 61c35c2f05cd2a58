"""Independent pieces of work over the machines of a Ray cluster, results as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, TypeVar

from plasticity_env.agents.rllib.ray_deaths import death
from plasticity_env.agents.rllib.ray_session import check_address, ray_session
from plasticity_env.common.errors import InputError
from plasticity_env.common.packages import require
from plasticity_env.common.values import brief

T = TypeVar("T")
R = TypeVar("R")


def mapper(address: str | None, workers: int, device: str = "cpu") -> Callable[..., Iterator[tuple[Any, Any]]] | None:
    """`map_tasks` with everything said but function, items and what is shared; None where there is no address.

    Args:
        address: "local", "auto" or HOST:PORT, checked here; None where no Ray is wanted.
        workers: Items at work at once.
        device: Device that items use: each takes a whole accelerator where it is not the CPU.

    Raises:
        InputError: Ray is not installed, or nothing answers.
    """
    if address is None:
        return None
    require("ray", "ray")
    check_address(address)
    return partial(map_tasks, address=address, workers=workers, gpus=0.0 if device == "cpu" else 1.0)


def map_tasks(
    function: Callable[..., R],
    items: Iterable[T],
    *,
    address: str = "local",
    workers: int = 2,
    shared: Any = None,
    retries: int = 3,
    gpus: float = 0.0,
) -> Iterator[tuple[T, R]]:
    """Call a function on every item, each in a process of its own, and yield what it returns as soon as it does.

    An item whose process died (a machine was lost, memory ran out) is tried again elsewhere; an item on which the function
    raises is not: its exception is raised here, after which no further item starts.

    Args:
        function: Function of one item, or of ``(shared, item)`` where something is shared. It must be importable on the
            workers and must not depend on which other items its process worked on.
        items: Picklable; they are read as workers get free.
        address: "local", "auto" or HOST:PORT.
        workers: Items at work at once.
        shared: Handed to every call, and put into the object store once: numpy arrays in it (see
            `plasticity_env.envs.shared_arrays`) are read where they lie, one copy a machine.
        retries: How often an item is tried again whose process died.
        gpus: Share of an accelerator that each call needs.

    Yields:
        (item, result), in the order in which items finish.

    Raises:
        InputError: No worker, Ray is not installed, does not answer or has no such accelerator, or an item's process died once
            too often.
    """
    if workers < 1:
        raise InputError(f"workers must be at least 1, got {workers}")
    with ray_session(address, workers, getattr(shared, "nbytes", 0)) as ray:
        there = ray.cluster_resources().get("GPU", 0.0)
        if gpus > there:
            raise InputError(
                f"a task needs {gpus:g} GPU and Ray at {address!r} has {there:g}, so none would ever start: "
                "use --device cpu, or a cluster with GPUs"
            )
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=retries)(function)
        given = () if shared is None else (ray.put(shared),)
        left, running = iter(items), {}
        try:
            while True:
                for item in left:
                    running[task.remote(*given, item)] = item
                    if len(running) >= workers:
                        break
                if not running:
                    return
                done, _ = ray.wait(list(running), num_returns=1)
                item = running.pop(done[0])
                yield item, _result(ray, done[0], retries, f"{getattr(function, '__name__', 'task')} of {brief(item)}")
        finally:
            for reference in running:
                ray.cancel(reference, force=True)


def _result(ray: Any, reference: Any, retries: int, call: str) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, Exception) else error) from None
    except ray.exceptions.RayError as error:  # the process died, the machine is gone, memory ran out
        named = {"task": reference.task_id().hex(), "call": call, "tries": str(retries + 1)}
        raise death(error, "a process of Ray's", **named) from error
