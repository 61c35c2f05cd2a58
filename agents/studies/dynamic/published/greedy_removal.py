"""One removal after another, each the one after which the measured loss is lowest; every measurement has its price."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from plasticity_env.agents.studies.dynamic.published.removable import Removable
from plasticity_env.dynamic.text_masks import masked_losses
from plasticity_env.model.plastic_model import PlasticModel

LossOf = Callable[[Tensor], Tensor]  # (S, c, L, U) masks -> (S, c) losses


@dataclass(frozen=True)
class RemovalPath:
    """S independent sequences of removals, side by side.

    Attributes:
        masks: (K + 1, S, L, U) boolean, after 0, 1, ... removals.
        spent: (K + 1, S) cost of all masks that were measured up to there, in the unit of the table.
        removable: What was removed.
    """

    masks: Tensor = field(repr=False)
    spent: Tensor = field(repr=False)
    removable: Removable

    def nearest(self, target: float) -> tuple[Tensor, Tensor]:
        """(S, L, U) masks that come nearest to a cost, and (S,) what measuring on the way to them cost."""
        step = (self.removable.table.totals(self.masks) - target).abs().argmin(0)
        every = torch.arange(len(step))
        return self.masks[step, every], self.spent[step, every]


def remove_greedily(removable: Removable, loss_of: LossOf, lowest: float, count: int = 1) -> RemovalPath:
    """Remove until the costs are at or below the lowest that is wanted.

    Args:
        removable: What can go, and the table of costs: FLOPs, or bytes of the KV cache.
        loss_of: Measures.
        lowest: Cost at which to stop.
        count: S.
    """
    gone = torch.zeros(count, len(removable), dtype=torch.bool)
    masks, spent, rows = [removable.without(gone)], [torch.zeros(count, dtype=torch.float64)], torch.arange(count)
    while len(masks) < len(removable) and bool((removable.table.totals(masks[-1]) > lowest).any()):
        left = (~gone).nonzero()[:, 1].view(count, -1)  # (S, c)
        tried = gone[:, None].expand(-1, left.shape[1], -1).clone().scatter_(2, left[..., None], True)
        candidates = removable.without(tried)  # (S, c, L, U)
        best = loss_of(candidates).argmin(1)
        gone[rows, left[rows, best]] = True
        masks.append(removable.without(gone))
        spent.append(spent[-1] + removable.table.totals(candidates).sum(1))
    return RemovalPath(torch.stack(masks), torch.stack(spent), removable)


def losses_on(
    model: PlasticModel, ids: Tensor, *, dense_tokens: int = 0, first: int = 1, batch_size: int = 32
) -> LossOf:
    """The mean loss of each sequence of removals on texts of its own.

    Args:
        model: The dense model.
        ids: (S, m, T) token ids.
        dense_tokens, first, batch_size: As `masked_losses` takes them.
    """

    def loss_of(masks: Tensor) -> Tensor:
        candidates, texts = masks.shape[1], ids.shape[1]
        every = ids[:, None].expand(-1, candidates, -1, -1).flatten(0, 2)  # (S * c * m, T)
        each = masks[:, :, None].expand(-1, -1, texts, -1, -1).flatten(0, 2)
        losses = masked_losses(model, every, each, dense_tokens=dense_tokens, first=first, batch_size=batch_size)
        return losses.view(len(ids), candidates, texts).mean(2)

    return loss_of
