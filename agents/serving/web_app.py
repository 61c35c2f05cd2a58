"""The endpoints: completions, models, structures, health, and the page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from plasticity_env.agents.serving.completion_schema import ApiError, CompletionRequest, sentence
from plasticity_env.agents.serving.completions import Completions, Limits
from plasticity_env.agents.serving.request_gate import RequestGate
from plasticity_env.agents.serving.worker import Served, Worker
from plasticity_env.plots.html import environment

SEQUENCE = 256  # tokens of a text, for which the table of structures gives the FLOPs


@dataclass(frozen=True)
class About:
    """What the page says of the model.

    Attributes:
        name: What the routed model is called.
        note: What the model knows.
        examples: Names and beginnings of texts to try.
    """

    name: str
    note: str = ""
    examples: tuple[tuple[str, str], ...] = ()


def make_app(
    worker: Worker,
    about: About,
    limits: Limits = Limits(),  # noqa: B008  frozen
    hosts: frozenset[str] = frozenset(),
    max_body: int = 256 * 1024,
) -> FastAPI:
    """The server's application; it starts and ends the worker.

    Args:
        worker: Runs the requests.
        about: What the page says.
        limits: What a request may ask for.
        hosts: Names of the hosts that it answers for, as `RequestGate` takes them.
        max_body: Most bytes of a request's body.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        worker.close()

    app = FastAPI(title="plasticity serve", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(RequestGate, hosts=hosts, max_body=max_body)
    app.add_exception_handler(ApiError, _told)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _no_such_thing)
    completions = Completions(worker, about.name, limits)

    @app.post("/v1/completions")
    async def complete(request: CompletionRequest) -> Response:
        if request.stream:
            stream = completions.streamed(request)
            return StreamingResponse(stream, media_type="text/event-stream", headers={"cache-control": "no-store"})
        return JSONResponse(await completions.whole(request))

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        rows = [
            {"id": name, "object": "model", "created": 0, "owned_by": "plasticity-env"} for name in completions.models
        ]
        return {"object": "list", "data": rows}

    @app.get("/v1/structures")
    async def structures() -> list[dict[str, Any]]:
        return _structures(worker)

    @app.get("/health")
    async def health() -> Response:
        state = {"status": "ok" if worker.alive else "failed", "model": about.name, "waiting": worker.waiting}
        return JSONResponse(state, 200 if worker.alive else 503)

    _add_page(app, worker, about, limits)
    return app


def _add_page(app: FastAPI, worker: Worker, about: About, limits: Limits) -> None:
    templates, engine = environment(__package__), worker.engine
    page = templates.get_template("serve.html").render(
        about=about,
        names=engine.bank.names,
        limits=limits,
        prefix=engine.routed.prefix_tokens,
        prefix_structure=engine.bank.names[engine.routed.prefix_structure],
        switch_every=engine.routed.switch_every,
    )
    files = {
        "/serve.css": (templates.get_template("serve.css").render(), "text/css"),
        "/serve.js": (templates.get_template("serve.js").render(), "text/javascript"),
    }

    @app.get("/")
    async def index() -> Response:
        return HTMLResponse(page)

    for path, (text, kind) in files.items():

        def file(text: str = text, kind: str = kind) -> Response:
            return Response(text, media_type=kind)

        app.add_api_route(path, file, methods=["GET"])


def _structures(worker: Worker) -> list[dict[str, Any]]:
    """The bank's table, and what each structure has served."""
    model, bank = worker.engine.bank.model, worker.engine.bank
    kept = (bank.flops(SEQUENCE) / bank.flops(SEQUENCE)[0]).tolist()
    rows = []
    for number, structure in enumerate(bank):
        served = worker.served.get(number, Served())
        rows.append(
            {
                "name": structure.name,
                "label": structure.label,
                "share": structure.share,
                "flops_kept": kept[number],
                "heads": structure.active[:, : model.heads].tolist(),
                "blocks": structure.active[:, model.heads :].tolist(),
                "requests": served.requests,
                "tokens": served.tokens,
                "tokens_per_second": served.tokens / served.seconds if served.seconds else None,
                "served_flops_kept": served.flops / served.flops_dense if served.flops_dense else None,
            }
        )
    return rows


async def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body, error.status)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = min(
        error.errors(), key=lambda entry: entry["type"] != "extra_forbidden"
    )  # a field's wrong name before its lack
    if first["type"] == "json_invalid":
        told = ApiError(400, f"the body is not JSON ({first.get('ctx', {}).get('error', first['msg'])})")
    elif first["loc"] == ("body",) and not request.headers.get("content-type", "").startswith("application/json"):
        told = ApiError(400, "the body must be a JSON object, with the header Content-Type: application/json")
    else:
        told = ApiError(422, *sentence(dict(first)))
    return JSONResponse(told.body, told.status)


async def _no_such_thing(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path
    message = {404: f"there is nothing at {path!r}", 405: f"{path!r} does not take {request.method}"}
    return JSONResponse(
        ApiError(error.status_code, message.get(error.status_code, str(error.detail))).body, error.status_code
    )
