"""What a plan took, in the unit that all players are billed in."""

from __future__ import annotations

from dataclasses import dataclass

MEASURING_PASS = 3  # evaluations


@dataclass
class Bill:
    """What a plan took.

    Attributes:
        evaluations: Forwards over a batch, a measuring pass counted as three.
        forward_tokens, backward_tokens: Tokens that went through the model, there and back.
    """

    evaluations: int = 0
    forward_tokens: int = 0
    backward_tokens: int = 0
