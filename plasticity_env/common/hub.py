"""The hub, or its local cache at once: without a network its client would try again and again for a minute."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants

_SECONDS = 5.0


@contextmanager
def hub_or_cache() -> Iterator[None]:
    """Where the hub does not answer, be in its offline mode for a moment: what is cached loads, the rest fails at once."""
    if constants.is_offline_mode() or answers(constants.ENDPOINT):
        yield
        return
    modules = [constants, sys.modules.get("datasets.config")]  # both read the environment once, when they are imported
    before = [(module, module.HF_HUB_OFFLINE) for module in modules if module is not None]
    for module, _ in before:
        module.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for module, value in before:
            module.HF_HUB_OFFLINE = value  # type: ignore[attr-defined]


def answers(url: str) -> bool:
    """Whether something listens there; behind a proxy that is left to the client."""
    parts = urlsplit(url)
    if parts.scheme in getproxies():
        return True
    try:
        with socket.create_connection(
            (parts.hostname, parts.port or (80 if parts.scheme == "http" else 443)), _SECONDS
        ):
            return True
    except OSError:
        return False
