"""Where a server listens: its socket, taken before any work, and the names under which it may be asked."""

from __future__ import annotations

import errno
import ipaddress
import socket

from plasticity_env.common.errors import InputError, first_line

LOOPBACK = frozenset(("localhost", "127.0.0.1", "[::1]"))


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, taken before any work.

    Raises:
        InputError: The address does not exist here, or the port is taken or not allowed.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except (OSError, UnicodeError) as error:
        code = error.errno if isinstance(error, OSError) else None
        if code == errno.EADDRINUSE:
            raise InputError(
                f"port {port} of {host} is in use: choose another with --port, or --port 0 for a free one"
            ) from error
        if code == errno.EACCES:
            raise InputError(
                f"port {port} needs rights that this user lacks: choose one above 1023 with --port"
            ) from error
        raise InputError(
            f"this machine cannot listen at {host!r} ({first_line(error)}): use --host 127.0.0.1, or an address of its own"
        ) from error


def hosts_of(asked: str, address: str) -> frozenset[str]:
    """Names that a request's Host header may have, as `RequestGate` takes them; empty where others are let in.

    Args:
        asked: The host as the user wrote it.
        address: The address that is listened at.
    """
    return LOOPBACK | {in_url(asked.lower())} if ipaddress.ip_address(address).is_loopback else frozenset()


def in_url(host: str) -> str:
    """A host as it stands in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host
