"""The Plackett-Luce policy over rankings: units are picked one after the other, each with odds that the network gives.

`plasticity/HeadRank-v1` reads only the order of the scores, and only as far as units go. So the policy is over that: of the
units that are left, the next to be pruned is drawn from the softmax of the logits of pruning over keeping, until the round's
share is gone. Its likelihood is exact for what the environment did (a Gaussian over scores would also be paid for noise
among units far from the cut), its noise is measured in the logits' own scale, so that it learns how sure to be, and its mode
is the ranking by the logits, which is what the controller plays.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

OUT = -1e9  # logit of a unit that cannot be picked


@dataclass
class Picks:
    """M decisions as the picks that they consist of.

    Attributes:
        order: (M, N) unit numbers, in the order in which they would go; those that do not stand for choice come last.
        candidates: (M, N) boolean, units that stood for choice.
        picked: (M, N) boolean, True for the places of ``order`` whose unit the environment pruned.
    """

    order: Tensor
    candidates: Tensor
    picked: Tensor

    def __getitem__(self, index: Tensor) -> Picks:
        return Picks(*(getattr(self, field.name)[index] for field in fields(self)))

    def to(self, device: torch.device | str) -> Picks:
        """Move all tensors."""
        return Picks(*(getattr(self, field.name).to(device) for field in fields(self)))

    @classmethod
    def cat(cls, parts: list[Picks], slots: int) -> Picks:
        """Concatenate decisions, padded to ``slots`` units that never stand for choice."""
        padded = []
        for part in parts:
            missing = slots - part.order.shape[1]
            rest = torch.arange(slots - missing, slots).expand(len(part.order), -1)
            nothing = torch.zeros(len(part.order), missing, dtype=torch.bool)
            padded.append(
                (
                    torch.cat([part.order, rest], 1),
                    torch.cat([part.candidates, nothing], 1),
                    torch.cat([part.picked, nothing], 1),
                )
            )
        return cls(*(torch.cat(list(column)) for column in zip(*padded, strict=True)))


def sample_scores(logits: Tensor, generator: torch.Generator | None = None) -> np.ndarray:
    """Draw rankings.

    Args:
        logits: (M, N) of pruning over keeping.
        generator: Generator of the draws.

    Returns:
        (M, N) scores, higher = kept longer: the negative of the logits with Gumbel noise, whose order is Plackett-Luce.
    """
    uniform = torch.rand(logits.shape, generator=generator, dtype=torch.float64)
    gumbel = -torch.log(-torch.log(uniform.clamp(1e-300, 1 - 1e-16)))
    return (-(logits.detach().cpu().double() + gumbel)).numpy()


def picks_of(scores: np.ndarray, before: Tensor, after: Tensor, adaptive: bool, whole_units: bool) -> Picks:
    """What was picked by scores that led from one mask to another.

    Args:
        scores: (M, N), higher = kept longer.
        before, after: (M, N) boolean, True = active.
        adaptive: Whether all units stood for choice, or the active ones only.
        whole_units: Whether the share counts units. Where it counts FLOPs, the first unit that found no more room is part of
            what was decided, too.
    """
    candidates = torch.ones_like(before) if adaptive else before
    values = torch.from_numpy(np.asarray(scores, dtype=np.float64)).masked_fill(~candidates, torch.inf)
    order = values.argsort(dim=1, stable=True)
    gone = ~after if adaptive else before & ~after
    picked = gone.gather(1, order)
    if not whole_units:
        count = picked.sum(1, keepdim=True)
        picked = torch.arange(picked.shape[1]) < torch.minimum(count + 1, candidates.sum(1, keepdim=True))
    return Picks(order, candidates, picked)


def pick_log_probs(logits: Tensor, picks: Picks) -> Tensor:
    """(M, N) log-probability of each pick given those before it, in the order of the picks; 0 where nothing was picked.

    Args:
        logits: (M, N) of pruning over keeping, by unit.
        picks: What was picked.
    """
    ordered = logits.masked_fill(~picks.candidates, OUT).gather(1, picks.order)  # (M, N), by place
    left = ordered.flip(1).logcumsumexp(1).flip(1)  # of the units from this place on
    return torch.where(picks.picked, ordered - left, 0.0)


def pick_entropies(logits: Tensor, picks: Picks) -> Tensor:
    """(M, N) entropy of each pick given those before it, nats; 0 where nothing was picked."""
    ordered = logits.masked_fill(~picks.candidates, OUT).gather(1, picks.order)
    left = ordered.flip(1).logcumsumexp(1).flip(1)
    # sum over the units left of p * logit, with p = exp(logit - left), from sums that start at the end
    shifted = ordered.clamp(min=-1e6)
    top = shifted.max(1, keepdim=True).values.detach()
    weight = (ordered - top).exp()
    mean = (weight * (shifted - top)).flip(1).cumsum(1).flip(1) / (left - top).exp().clamp(min=1e-30) + top
    return torch.where(picks.picked, left - mean, 0.0)
