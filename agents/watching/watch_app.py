"""The page, its files, and the stream of what runs have written."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request

from plasticity_env.agents.serving.request_gate import RequestGate
from plasticity_env.agents.watching.run_lines import Event, RunLines
from plasticity_env.common.errors import InputError
from plasticity_env.plots.html import environment

QUIET = 15.0  # seconds without news after which a comment keeps the connection alive
PORTION = 1000  # most rows of an event
Closing = threading.Event
"""Set when the server ends; streams end then."""


def make_watch_app(
    runs: Mapping[str, Path], closing: Closing, every: float = 1.0, hosts: frozenset[str] = frozenset()
) -> FastAPI:
    """The application.

    Args:
        runs: Folders by the names that the page shows.
        closing: Ends the streams.
        every: Seconds between two looks at the folders.
        hosts: As `RequestGate` takes them.
    """
    app = FastAPI(title="plasticity watch", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(RequestGate, hosts=hosts, max_body=0)
    app.add_exception_handler(HTTPException, _no_such_thing)
    templates = environment(__package__)
    page = templates.get_template("watch.html").render(names=list(runs))
    files = {
        "/watch.css": (templates.get_template("watch.css").render(), "text/css"),
        "/watch.js": (templates.get_template("watch.js").render(), "text/javascript"),
        "/watch_drawing.js": (templates.get_template("watch_drawing.js").render(), "text/javascript"),
    }

    @app.get("/")
    async def index() -> Response:
        return HTMLResponse(page)

    @app.get("/events")
    async def events() -> Response:
        stream = _stream(runs, closing, every)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"cache-control": "no-store"})

    for path, (text, kind) in files.items():

        def file(text: str = text, kind: str = kind) -> Response:
            return Response(text, media_type=kind)

        app.add_api_route(path, file, methods=["GET"])
    return app


async def _stream(runs: Mapping[str, Path], closing: Closing, every: float) -> AsyncIterator[str]:
    """Everything from the start, then what comes; each client has its own place in the files."""
    yield _said({"kind": "start", "runs": list(runs)})
    try:
        read = [RunLines(folder) for folder in runs.values()]
    except InputError as error:  # the folder went since the server began
        yield _said({"kind": "problem", "run": None, "said": str(error)})
        return
    loop = asyncio.get_running_loop()
    last, first = loop.time(), True
    while not closing.is_set():
        for number, run in enumerate(read):
            news = run.news()
            while (event := await asyncio.to_thread(next, news, None)) is not None:
                for part in _parts(event):
                    yield _said({**part, "run": number})
                last = loop.time()
        if first:
            yield _said({"kind": "caught up"})
            first = False
        elif loop.time() - last > QUIET:
            yield ": still here\n\n"
            last = loop.time()
        await _sleep(every, closing)


def _parts(event: Event) -> Iterator[Event]:
    rows = event.get("rows")
    if rows is None:
        yield event
        return
    for start in range(0, len(rows), PORTION):
        yield {**event, "rows": rows[start : start + PORTION]}


async def _sleep(seconds: float, closing: Closing) -> None:
    """Wait, but not past the end."""
    left = seconds
    while left > 0 and not closing.is_set():
        await asyncio.sleep(min(left, 0.2))
        left -= 0.2


def _said(event: dict[str, Any]) -> str:
    return f"data: {json.dumps(event, allow_nan=False)}\n\n"


async def _no_such_thing(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path
    message = {404: f"there is nothing at {path!r}", 405: f"{path!r} does not take {request.method}"}
    return JSONResponse({"error": message.get(error.status_code, str(error.detail))}, error.status_code)
