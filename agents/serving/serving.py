"""From arguments to a running server: the socket first, then the model and its bank, then requests."""

from __future__ import annotations

import asyncio
import sys
import time

from plasticity_env.agents.serving.completions import Limits
from plasticity_env.agents.serving.demo_texts import EXAMPLES, NOTE, demo_texts
from plasticity_env.agents.serving.engine import Engine
from plasticity_env.agents.serving.listening import hosts_of, in_url, listen
from plasticity_env.agents.serving.quiet_server import QuietServer
from plasticity_env.agents.serving.serve_config import ServeConfig
from plasticity_env.agents.serving.web_app import About, make_app
from plasticity_env.agents.serving.worker import Worker
from plasticity_env.common.errors import InputError, unknown
from plasticity_env.controllers.routers.learned_router import LearnedRouter
from plasticity_env.data.text import pack
from plasticity_env.dynamic.bank import DENSE, StructureBank
from plasticity_env.dynamic.fitting import MIXTURE, build_bank
from plasticity_env.dynamic.nearest import NearestTexts
from plasticity_env.dynamic.routed_model import Router
from plasticity_env.model.embedded import embedded_models
from plasticity_env.model.loading import LoadedModel, load_model

DEMO_MODEL, DEMO_SHARE, DEMO_BLOCKS, DEMO_LENGTH = "mixed-llama-4x8", 0.5, 48, 128


def serve(config: ServeConfig) -> None:
    """Serve until Ctrl-C.

    Raises:
        InputError: The port is taken, or the model or its bank cannot be used.
    """
    demo_model = config.model_name or DEMO_MODEL
    if config.demo and demo_model not in embedded_models():
        raise unknown(
            "embedded model", demo_model, embedded_models(), "; for another one fit a bank and name it with --bank"
        )
    listening = listen(config.host, config.port)
    with listening:
        app_worker, about = _model(config, demo_model)
        host, port = listening.getsockname()[:2]
        hosts = hosts_of(config.host, host)
        limits = Limits(config.max_tokens, config.max_prompt_tokens)
        app = make_app(app_worker, about, limits, hosts, config.max_body)
        url = f"http://{in_url(host)}:{port}/"
        if not hosts:
            print(f"anyone who reaches {host} can use this server: it asks for no key", file=sys.stderr)
        print(f"page: {url}\nendpoint: {url}v1/completions (Ctrl-C ends it)", flush=True)

        async def end_requests() -> None:
            await asyncio.to_thread(app_worker.close)

        QuietServer(app, end_requests).serve_on(listening, url if config.browser else "")


def _model(config: ServeConfig, demo_model: str) -> tuple[Worker, About]:
    name = demo_model if config.model_name is None else config.model_name
    loaded = load_model(name, device=config.device, mlp_blocks=config.mlp_blocks)
    if config.demo:
        started = time.monotonic()
        bank = demo_bank(loaded)
        print(f"fitted a bank of {len(bank) - 1} structures in {time.monotonic() - started:.0f} seconds", flush=True)
        about = About(loaded.name, NOTE, tuple(EXAMPLES.items()))
    else:
        assert config.bank is not None  # the command has looked
        bank = StructureBank.load(config.bank, loaded.model)
        about = About(loaded.name)
    engine = Engine(
        bank,
        _router(bank, config),
        loaded.tokenizer,
        prefix_tokens=config.prefix_tokens,
        prefix_structure=config.prefix_structure,
        switch_every=config.switch_every,
        compacted=config.compacted,
    )
    return Worker(engine, config.batch_size, config.waiting), about


def demo_bank(loaded: LoadedModel, blocks: int = DEMO_BLOCKS) -> StructureBank:
    """A bank of an embedded model for four kinds of text.

    Args:
        loaded: The model.
        blocks: Blocks of each kind.
    """
    texts = {label: pack(loaded.tokenizer, text, DEMO_LENGTH)[:blocks] for label, text in demo_texts().items()}
    return build_bank(loaded.model, texts, (DEMO_SHARE,))


def _router(bank: StructureBank, config: ServeConfig) -> Router:
    if config.router is not None:
        return LearnedRouter.load(config.router, config.price, bank)
    share = _share(bank, config.share)
    mixture = f"{MIXTURE}@{share:g}"
    under = config.prefix_structure or (mixture if mixture in bank.pruned_prefixes else DENSE)
    return NearestTexts(bank, share, under)


def _share(bank: StructureBank, share: float | None) -> float:
    """The share of the structures that the router picks from.

    Raises:
        InputError: Several, and none was named; or one that the bank does not have.
    """
    known = {f"{each:g}": each for each in bank.shares}
    if share is None:
        if len(known) != 1:
            raise InputError(f"the bank has structures of the shares {', '.join(known)}: name one with --share")
        return next(iter(known.values()))
    if f"{share:g}" not in known:
        raise unknown("share", f"{share:g}", known)
    return known[f"{share:g}"]
