"""Which end of the entropy scale to prune: both are tried, and the one that harms less wins.

`strategies.entropy_direction` answers the same from signals alone, by how entropy goes with the Fisher score; where they go
together weakly (bard-gpt2-4x4: a rank correlation of 0.03) that is no more than a guess, and a trial costs two forward passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.signals.measure import HeadSignals, mean_loss
from plasticity_env.strategies.pruning import AttentionEntropyStrategy, HeadView

Direction = Literal["high", "low"]


@dataclass(frozen=True)
class EntropyTrial:
    """What became of pruning by either direction.

    Attributes:
        high, low: Loss with the heads of highest (lowest) entropy pruned, nats per token, before any repair.
    """

    high: float
    low: float

    @property
    def direction(self) -> Direction:
        """The one of smaller loss; "high" where they are equal."""
        return "high" if self.high <= self.low else "low"


def try_entropy_directions(
    model: PlasticModel,
    signals: HeadSignals,
    candidates: Tensor,
    count: int,
    input_ids: Tensor,
    batch_size: int = 8,
) -> EntropyTrial:
    """Close the gates of the heads that each direction would prune, and measure; the model is left as it is.

    Args:
        model: The model; it is left as it is.
        signals: Signals of the model.
        candidates: (L, U) boolean, heads that may be pruned; those of them that are closed already are open in the trial
            unless it chooses them.
        count: How many of them are pruned.
        input_ids: (B, T) calibration text.
        batch_size: Sequences in one pass.

    Raises:
        InputError: A loss that is not finite.
    """
    losses = []
    for direction in ("high", "low"):
        view = HeadView(model.active, model.heads, torch.Generator(), signals)
        closed = AttentionEntropyStrategy(direction).select(view, candidates, count)
        gates = torch.where(candidates & ~model.active, 1.0, model.gates).masked_fill(closed, 0.0)  # (L, U)
        with model.using(gates.to(model.device)):
            losses.append(mean_loss(model, input_ids, batch_size))
    return EntropyTrial(*losses)
