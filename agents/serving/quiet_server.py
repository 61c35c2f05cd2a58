"""A web server that says nothing while it works, and ends what it has begun when it is told to end."""

from __future__ import annotations

import socket
import threading
import webbrowser
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn


class QuietServer(uvicorn.Server):
    """Serves an application until Ctrl-C.

    Args:
        app: An ASGI application.
        before_end: Awaited before connections are waited for, so that what keeps them open can end.
    """

    def __init__(self, app: Any, before_end: Callable[[], Awaitable[None]]) -> None:
        super().__init__(uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=2))
        self._before_end = before_end

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._before_end()
        await super().shutdown(sockets)

    def serve_on(self, listening: socket.socket, page: str = "") -> None:
        """Run on a socket that listens already.

        Args:
            listening: See `listen`.
            page: A URL that is opened in the browser once the server runs.
        """
        if page:
            threading.Timer(0.5, webbrowser.open, (page,)).start()
        self.run(sockets=[listening])
