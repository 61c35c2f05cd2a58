"""What masks that are measured side by side share, and how much of calibration text is remembered for them."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.signals.dense_moments import packed_size

MOMENTS_BYTES = 2e9  # for moments of calibration texts, beyond those of one text and its halves
CPU_TOKENS = 1024  # in a pass of many masks: larger ones leave the cache (docs/lab/benchmark.md)
_STATE_BYTES = 4000, 1040  # of an episode's state, observation and spaces: in any case, and for each unit


@dataclass(frozen=True)
class Sharing:
    """How a bench of many masks shares what it has.

    Attributes:
        masks: How many are measured at a time, as a rule; one is carried by the model itself.
        tokens_per_pass: Tokens in one pass over the model; None takes 1024 on the CPU, all of them elsewhere.
        memory_share: Share of the model's bytes that may be kept for each mask, beside what a single environment keeps in any
            case (second moments of two calibration texts in float64). Packed they take about 3.5% of the model for each
            text; where there is no room they are gathered by one more forward whenever repair or residual scores want them.
    """

    masks: int = 1
    tokens_per_pass: int | None = None
    memory_share: float = 0.0


ALONE = Sharing()


def texts_kept(model: PlasticModel, sharing: Sharing = ALONE, budget: float = MOMENTS_BYTES) -> int:
    """How many texts' moments to remember.

    A bench of one keeps two texts and their halves (6); of a model where these take more bytes than the budget one (3).
    """
    inputs = [site.output_weight().shape[0] for site in model.sites if site.gated]
    whole = sum(8 * (i * i + i) for i in inputs)
    if sharing.masks == 1:
        return 6 if 6 * whole <= budget else 3
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.model.parameters())
    state = _STATE_BYTES[0] + _STATE_BYTES[1] * model.active.numel()
    room = sharing.masks * max(0.0, sharing.memory_share * weights - state) + 2 * whole
    return sys.maxsize if room == math.inf else int(room // sum(packed_size(i) for i in inputs))
