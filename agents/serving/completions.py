"""``POST /v1/completions``: from a request to jobs, and from their events to an answer, whole or streamed."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from plasticity_env.agents.serving.completion_schema import (
    PROMPTS,
    Answer,
    ApiError,
    CompletionRequest,
    choice,
    usage,
)
from plasticity_env.agents.serving.jobs import Ended, Event, Failed, Job, Picked, Piece
from plasticity_env.agents.serving.worker import BusyError, Worker
from plasticity_env.common.values import LARGEST_SEED


@dataclass(frozen=True)
class Limits:
    """What a request may ask for.

    Attributes:
        max_tokens: Most new tokens a prompt.
        max_prompt_tokens: Most tokens of a prompt.
    """

    max_tokens: int = 256
    max_prompt_tokens: int = 1024


@dataclass
class _Asked:
    """The prompts of one request while they run."""

    jobs: list[Job]
    seed: int
    events: asyncio.Queue[tuple[int, Event]] = field(default_factory=asyncio.Queue)
    picked: dict[int, int] = field(default_factory=dict)

    async def heard(self) -> AsyncGenerator[tuple[int, Event], None]:
        """Events with the number of their prompt, until all have ended; prompts are let go when nobody listens."""
        left = len(self.jobs)
        try:
            while left:
                index, event = await self.events.get()
                if isinstance(event, Picked):
                    self.picked[index] = event.structure
                left -= isinstance(event, Ended | Failed)
                yield index, event
        finally:
            for job in self.jobs:
                job.cancelled = True


class Completions:
    """Answers completion requests.

    Args:
        worker: Worker that runs the requests.
        name: What the routed model is called; a structure is ``name:structure``.
        limits: What a request may ask for.
    """

    def __init__(self, worker: Worker, name: str, limits: Limits) -> None:
        self._worker, self._engine, self._name, self._limits = worker, worker.engine, name, limits

    @property
    def models(self) -> list[str]:
        """Names that a request's ``model`` may have, the routed one first."""
        return [self._name, *(f"{self._name}:{structure}" for structure in self._engine.bank.names)]

    async def whole(self, request: CompletionRequest) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            ApiError: If the request cannot be answered.
        """
        asked, answer = self._asked(request), Answer(request.model or self._name)
        texts, ends = [""] * len(asked.jobs), {}
        async with aclosing(asked.heard()) as heard:
            async for index, event in heard:
                if isinstance(event, Failed):
                    raise _error(event)
                if isinstance(event, Piece):
                    texts[index] += event.text
                elif isinstance(event, Ended):
                    ends[index] = event
        choices = [
            choice(index, text, ends[index].reason, self._about(asked, index, ends[index]))
            for index, text in enumerate(texts)
        ]
        return answer.chunk(choices, usage=_usage(asked, ends))

    def streamed(self, request: CompletionRequest) -> AsyncIterator[str]:
        """The answer as server-sent events; what is wrong with the request is raised before the first.

        Raises:
            ApiError: If the request cannot be answered.
        """
        return self._stream(self._asked(request), Answer(request.model or self._name))

    async def _stream(self, asked: _Asked, answer: Answer) -> AsyncIterator[str]:
        ends: dict[int, Ended] = {}
        async with aclosing(asked.heard()) as heard:
            async for index, event in heard:
                if isinstance(event, Failed):
                    yield _sent(_error(event).body)
                    return
                if isinstance(event, Picked):
                    part = choice(index, "", None, {"structure": self._engine.bank.names[event.structure]})
                elif isinstance(event, Piece):
                    part = choice(index, event.text)
                else:
                    ends[index] = event
                    part = choice(index, "", event.reason, self._about(asked, index, event))
                more = {"usage": _usage(asked, ends)} if len(ends) == len(asked.jobs) else {}
                yield _sent(answer.chunk([part], **more))
        yield "data: [DONE]\n\n"

    def _about(self, asked: _Asked, index: int, ended: Ended) -> dict[str, Any]:
        """What is told of a continuation beside OpenAI's fields."""
        return {
            "structure": self._engine.bank.names[asked.picked[index]],
            "prefix_tokens": ended.prefix,
            "completion_tokens": ended.tokens,
            "flops_kept": ended.flops_kept,
            "seconds": ended.seconds,
            "waited": ended.waited,
            "tokens_per_second": ended.tokens_per_second,
            "seed": asked.seed,
        }

    def _asked(self, request: CompletionRequest) -> _Asked:
        """Check a request and queue its prompts."""
        structure = self._structure(request.model)
        if request.max_tokens > self._limits.max_tokens:
            raise ApiError(
                422,
                f"max_tokens {request.max_tokens} is more than the {self._limits.max_tokens} that this server makes",
                "max_tokens",
            )
        prompts = [request.prompt] if isinstance(request.prompt, str) else request.prompt
        if not 1 <= len(prompts) <= PROMPTS:
            raise ApiError(422, f"a request has 1 to {PROMPTS} prompts, this one {len(prompts)}", "prompt")
        seed = secrets.randbelow(LARGEST_SEED + 1) if request.seed is None else request.seed
        asked, loop = _Asked([], seed), asyncio.get_running_loop()

        def sender(index: int) -> Callable[[Event], None]:
            def send(event: Event) -> None:
                loop.call_soon_threadsafe(asked.events.put_nowait, (index, event))

            return send

        for index, prompt in enumerate(prompts):
            ids = self._checked_ids(prompt, request.max_tokens)
            asked.jobs.append(Job(ids, request.max_tokens, request.temperature, seed, sender(index), structure))
        try:
            self._worker.submit(asked.jobs)
        except BusyError as error:
            raise ApiError(
                429, "too many requests are waiting: try again in a moment", kind="rate_limit_error"
            ) from error
        return asked

    def _structure(self, model: str | None) -> int | None:
        if model in (None, self._name):
            return None
        if model not in self.models:
            raise ApiError(404, f"unknown model {model!r}: this server has {', '.join(self.models)}", "model")
        return self._engine.bank.index(model.removeprefix(f"{self._name}:"))

    def _checked_ids(self, prompt: str, max_tokens: int) -> Any:
        ids = self._engine.encode(prompt)
        if len(ids) < 2:
            raise ApiError(
                422,
                f"prompt {prompt!r} is {len(ids)} tokens long and needs at least 2: one that the router reads, one that follows",
                "prompt",
            )
        if len(ids) > self._limits.max_prompt_tokens:
            raise ApiError(
                422,
                f"a prompt has {len(ids)} tokens, more than the {self._limits.max_prompt_tokens} that this server reads",
                "prompt",
            )
        positions = self._engine.positions
        if positions is not None and len(ids) + max_tokens > positions:
            raise ApiError(
                422,
                f"a prompt of {len(ids)} tokens and max_tokens {max_tokens} are more than the model's {positions} positions: "
                "ask for fewer",
                "max_tokens",
            )
        return ids


def _usage(asked: _Asked, ends: dict[int, Ended]) -> dict[str, int]:
    return usage(sum(len(job.ids) for job in asked.jobs), sum(end.tokens for end in ends.values()))


def _error(failed: Failed) -> ApiError:
    return ApiError(422, failed.message) if failed.caller else ApiError(500, failed.message, kind="server_error")


def _sent(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data)}\n\n"
