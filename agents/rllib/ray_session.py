"""A connection to Ray that is checked first, reports nothing to anybody, and leaves no process behind."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from plasticity_env.common.errors import InputError, first_line
from plasticity_env.common.packages import require

ANSWER_SECONDS = 5.0
LOCAL_STORE_BYTES = 2**30  # of a local object store, at least
WAYS = (
    "local (processes of this machine), auto (the cluster that this machine belongs to) or HOST:PORT of its head node"
)


def check_address(address: str, seconds: float = ANSWER_SECONDS) -> str:
    """Find out whether a Ray head node answers; Ray itself would try for minutes.

    Args:
        address: "local", "auto" or HOST:PORT.
        seconds: Seconds to wait for an answer.

    Returns:
        What ``ray.init`` takes: "local" or HOST:PORT.

    Raises:
        InputError: If it is no address, or nothing answers there.
    """
    if address == "local":
        return address
    found = _running_cluster() if address == "auto" else address
    if found is None:
        raise InputError("--ray_address auto found no running Ray: start one with 'ray start --head', or use local")
    match = re.fullmatch(r"(?P<host>[^:/\s]+|\[[0-9a-fA-F:]+\]):(?P<port>\d{1,5})", found)
    if match is None or not 0 < int(match["port"]) < 2**16:
        raise InputError(f"--ray_address {found!r} is not an address: use {WAYS}")
    if not _answers(match["host"].strip("[]"), int(match["port"]), seconds):
        raise InputError(
            f"no Ray head node answers at {found!r} within {seconds:g} seconds: check 'ray status' there, or use local"
        )
    return found


@contextmanager
def ray_session(address: str, cpus: int, store_bytes: int = 0) -> Iterator[Any]:
    """Be connected to Ray for the length of a block.

    A local Ray has no dashboard and lives as long as the block; a cluster is only left. Inside another session of this
    process the block uses that one.

    Args:
        address: "local", "auto" or HOST:PORT.
        cpus: Processes that a local Ray may run at once.
        store_bytes: Bytes that will be put into the object store.

    Yields:
        The module ``ray``.

    Raises:
        InputError: Ray is not installed, or nothing answers.
    """
    require("ray", "ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    for noisy in ("ray", "ray.rllib", "ray.tune"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    if ray.is_initialized():
        yield ray
        return
    where = check_address(address)
    options: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    if where == "local":
        options.update(num_cpus=max(1, cpus), object_store_memory=max(LOCAL_STORE_BYTES, 2 * store_bytes))
    try:
        try:
            ray.init(address=where, **options)
        except (ConnectionError, RuntimeError) as error:
            raise InputError(
                f"Ray at {address!r} cannot be used ({first_line(error)}): the same versions of Ray and "
                "Python must run there, and where it wants a token, RAY_AUTH_MODE=token must be set here as well"
            ) from error
        yield ray
    finally:
        ray.shutdown()


def _running_cluster() -> str | None:
    """HOST:PORT of the head node, as ``ray.init("auto")`` finds it: by RAY_ADDRESS, or what ``ray start`` noted here."""
    from ray._private.services import canonicalize_bootstrap_address

    try:
        found = canonicalize_bootstrap_address("auto")
    except (ConnectionError, ValueError):
        return None
    return None if found in (None, "auto") else str(found)


def _answers(host: str, port: int, seconds: float) -> bool:
    """Whether something that speaks gRPC, as a head node does, listens there."""
    try:
        socket.create_connection((host, port), timeout=seconds).close()
    except OSError:
        return False
    if os.environ.get("RAY_USE_TLS") == "1":
        return True
    import grpc

    channel = grpc.insecure_channel(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    try:
        grpc.channel_ready_future(channel).result(timeout=seconds)
    except grpc.FutureTimeoutError:
        return False
    finally:
        channel.close()
    return True
