"""What a request must pass before it is read: a host that is ours, a body that is small enough, and a policy for pages."""

from __future__ import annotations

import json

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from plasticity_env.agents.serving.completion_schema import ApiError

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {"content-security-policy": POLICY, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}


class RequestGate:
    """Middleware that answers known hosts and short bodies only.

    Args:
        app: What is behind it.
        hosts: Names that the Host header may have, so that no stranger's page reaches a loopback server through a name of
            its own; empty: any.
        max_body: Most bytes of a body.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str], max_body: int) -> None:
        self._app, self._hosts, self._max_body = app, hosts, max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it with an error."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._hosts and _name(host) not in self._hosts:
            known = ", ".join(sorted(self._hosts))
            await _refuse(send, ApiError(400, f"the host {host!r} is not this server's: use one of {known}"))
            return
        too_large = ApiError(
            413, f"the body is larger than the {self._max_body} bytes that this server reads: send less"
        )
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._max_body:
            await _refuse(send, too_large)
            return
        body, more = b"", scope["method"] not in ("GET", "HEAD")
        while more:  # whatever the header says
            message = await receive()
            if message["type"] != "http.request":
                return
            body, more = body + message.get("body", b""), message.get("more_body", False)
            if len(body) > self._max_body:
                await _refuse(send, too_large)
                return
        await self._app(
            scope, _again(body, receive) if scope["method"] not in ("GET", "HEAD") else receive, _safely(send)
        )


def _again(body: bytes, receive: Receive) -> Receive:
    """What the app receives: the body that was read, then whatever comes."""
    given = False

    async def next_message() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return next_message


def _safely(send: Send) -> Send:
    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(HEADERS)
        await send(message)

    return with_headers


async def _refuse(send: Send, error: ApiError) -> None:
    body = json.dumps(error.body).encode()
    headers = {**HEADERS, "content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


def _name(host: str) -> str:
    """A host without its port; an IPv6 address stands in brackets."""
    return host.rpartition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0].lower()
