"""What a completion request may say, and the shapes of answers and errors: OpenAI's."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from plasticity_env.common.values import LARGEST_SEED

PROMPTS = 16  # in one request


class CompletionRequest(BaseModel):
    """The body of ``POST /v1/completions``. Of OpenAI's other fields those that change nothing are let through."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: str | list[str]
    model: str | None = None
    max_tokens: int = Field(default=64, ge=1)
    temperature: float = Field(default=1.0, ge=0, le=2)
    seed: int | None = Field(default=None, ge=0, le=LARGEST_SEED)
    stream: bool = False
    user: str | None = None
    n: Literal[1] = 1
    best_of: Literal[1] = 1
    top_p: Literal[1] = 1
    echo: Literal[False] = False
    frequency_penalty: Literal[0] = 0
    presence_penalty: Literal[0] = 0
    stop: None = None
    suffix: None = None
    logprobs: None = None
    logit_bias: None = None


class ApiError(Exception):
    """A request that is answered with an error.

    Args:
        status: Status code of HTTP.
        message: One sentence.
        param: The field at fault.
        kind: OpenAI's type of error.
    """

    def __init__(
        self, status: int, message: str, param: str | None = None, kind: str = "invalid_request_error"
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.kind = status, message, param, kind

    @property
    def body(self) -> dict[str, Any]:
        """The JSON that is sent."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": None}}


@dataclass(frozen=True)
class Answer:
    """The frame of one answer, which all its chunks share.

    Attributes:
        model: The model that the request named.
    """

    model: str
    id: str = field(default_factory=lambda: f"cmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def chunk(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """A whole answer, or a part of a streamed one."""
        frame = {"id": self.id, "object": "text_completion", "created": self.created, "model": self.model}
        return {**frame, "choices": choices, **more}


def choice(
    index: int, text: str, reason: str | None = None, plasticity: dict[str, Any] | None = None
) -> dict[str, Any]:
    """One prompt's continuation, or a piece of it; ``plasticity`` is what OpenAI's shape has no place for."""
    found: dict[str, Any] = {"index": index, "text": text, "logprobs": None, "finish_reason": reason}
    return found if plasticity is None else {**found, "plasticity": plasticity}


def usage(prompt: int, completion: int) -> dict[str, int]:
    """Tokens that a request took."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def sentence(error: dict[str, Any]) -> tuple[str, str | None]:
    """One of pydantic's errors as a sentence, and the field that it is of.

    Args:
        error: An entry of ``ValidationError.errors()`` or FastAPI's, whose place begins with ``"body"``.
    """
    place = [str(part) for part in error["loc"] if part != "body"]
    name = place[0] if place else None
    if error["type"] == "missing":
        return f"{name or 'the body'} is missing", name
    if error["type"] == "extra_forbidden":
        known = ", ".join(CompletionRequest.model_fields)
        return f"unknown field {name!r}: this server takes {known}", name
    said = error["msg"][:1].lower() + error["msg"][1:]
    given = repr(error.get("input"))
    return f"{name or 'the body'}: {said}, got {given if len(given) <= 60 else given[:57] + '...'}", name
