"""One prompt on its way through the server: what is asked for, and what is heard of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Picked:
    """A structure was picked for the request.

    Attributes:
        structure: Its number in the bank.
        tokens: New tokens that there were before.
    """

    structure: int
    tokens: int


@dataclass(frozen=True)
class Piece:
    """Some text of the continuation."""

    text: str


@dataclass(frozen=True)
class Ended:
    """The request is done.

    Attributes:
        reason: ``"stop"`` where the model ended its text, ``"length"`` where the tokens were used up.
        tokens: New tokens, the one that ended the text among them.
        prefix: Tokens of the prompt that ran before the router picked.
        seconds: Seconds from the start of its batch to its last token.
        waited: Seconds in the queue.
        flops_kept: Forward FLOPs over the dense model's, prefix and router included.
        flops_dense: Forward FLOPs of the dense model on the same tokens.
    """

    reason: str
    tokens: int
    prefix: int
    seconds: float
    waited: float
    flops_kept: float
    flops_dense: float

    @property
    def tokens_per_second(self) -> float:
        """New tokens a second."""
        return self.tokens / max(self.seconds, 1e-9)


@dataclass(frozen=True)
class Failed:
    """The request cannot be answered.

    Attributes:
        message: What went wrong.
        caller: Whether the request itself is at fault.
    """

    message: str
    caller: bool


Event = Picked | Piece | Ended | Failed


@dataclass
class Job:
    """A prompt and how it is to be continued.

    Attributes:
        ids: (T,) token ids of the prompt.
        max_tokens: Most new tokens.
        temperature: 0 takes the likeliest token.
        seed: Seed of its own generator, so that what it draws does not depend on who shares its batch.
        send: Is told every event, on the worker's thread.
        structure: Number of the structure that it asks for; None: the router picks.
        cancelled: Set where nobody waits for the answer any more.
        arrived: Time at which it was queued, by `time.monotonic`.
    """

    ids: Tensor
    max_tokens: int
    temperature: float
    seed: int
    send: Callable[[Event], None] = field(repr=False)
    structure: int | None = None
    cancelled: bool = False
    arrived: float = 0.0
