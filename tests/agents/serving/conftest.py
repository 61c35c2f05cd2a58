"""A small bank, its engine, and a server that listens at a free port."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="FastAPI is not installed: pip install 'plasticity-env[serve]'")
pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'plasticity-env[serve]'")

import httpx
import uvicorn

from plasticity_env import LoadedModel, load_model
from plasticity_env.agents.serving.completions import Limits
from plasticity_env.agents.serving.demo_texts import demo_texts
from plasticity_env.agents.serving.engine import Engine
from plasticity_env.agents.serving.jobs import Event, Job
from plasticity_env.agents.serving.listening import listen
from plasticity_env.agents.serving.web_app import About, make_app
from plasticity_env.agents.serving.worker import Worker
from plasticity_env.data.text import pack
from plasticity_env.dynamic import NearestTexts, StructureBank, build_bank

HOSTILE = "<script>alert('x')</script>"


@pytest.fixture(scope="package")
def loaded() -> LoadedModel:
    return load_model("bard-gpt2-4x4")


@pytest.fixture(scope="package")
def bank(loaded: LoadedModel) -> StructureBank:
    """Structures ``plays@0.5``, ``tables@0.5`` and ``mixture@0.5``."""
    texts = demo_texts()
    blocks = {label: pack(loaded.tokenizer, texts[label][:4000], 40)[:8] for label in ("plays", "tables")}
    return build_bank(loaded.model, blocks, (0.5,))


@pytest.fixture(scope="package")
def make_engine(bank: StructureBank, loaded: LoadedModel) -> Callable[..., Engine]:
    def make(router: Any = None, **options: Any) -> Engine:
        return Engine(bank, router or NearestTexts(bank), loaded.tokenizer, **options)

    return make


@pytest.fixture
def job(loaded: LoadedModel) -> Callable[..., tuple[Job, list[Event]]]:
    """Makes a job and the list of what it hears."""

    def make(prompt: str, max_tokens: int = 4, structure: int | None = None, seed: int = 0, temperature: float = 0.0):
        import torch

        heard: list[Event] = []
        ids = torch.tensor(loaded.tokenizer(prompt)["input_ids"])
        return Job(ids, max_tokens, temperature, seed, heard.append, structure), heard

    return make


@dataclass
class Running:
    """A server and a client of it."""

    client: httpx.Client
    worker: Worker
    engine: Engine

    def ask(self, **body: Any) -> httpx.Response:
        return self.client.post("/v1/completions", json=body)


@pytest.fixture(scope="package")
def server(make_engine: Callable[..., Engine]) -> Iterator[Running]:
    """The server, as a thread."""
    engine = make_engine()
    worker = Worker(engine, batch_size=4, waiting=6)
    about = About("bard", HOSTILE, ((HOSTILE, f'"{HOSTILE}'),))
    app = make_app(
        worker, about, Limits(max_tokens=200, max_prompt_tokens=60), frozenset(("127.0.0.1",)), max_body=2000
    )
    listening = listen("127.0.0.1", 0)
    running = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
    thread = threading.Thread(target=running.run, args=([listening],))
    thread.start()
    with listening, httpx.Client(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=60) as client:
        while not running.started and thread.is_alive():
            time.sleep(0.01)
        yield Running(client, worker, engine)
        running.should_exit = True
        thread.join()
