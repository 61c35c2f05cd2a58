"""What may come back: units whose measured gain exceeds the price of their FLOPs, before anything is paid for them.

The gain is that of the first order: what the loss falls by, in nats, as a closed gate opens (``revive``, -dL/dgate at 0). The
price is what the environment's reward takes for the FLOPs: flop_price times the rise of the log of all FLOPs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from plasticity_env.cycle.deciders import Situation


@dataclass(frozen=True)
class Returns:
    """What the pruned units of one state of a model promise.

    Attributes:
        gain: (L, U) nats; 0 for active units.
        price: (L, U) nats that the FLOPs of each unit cost.
        active: (L, U) boolean.
    """

    gain: Tensor
    price: Tensor
    active: Tensor

    @classmethod
    def of(cls, situation: Situation) -> Returns:
        """The returns of a decision's situation."""
        active, costs = situation.active, situation.costs
        rise = torch.log1p(costs.marginal(active) / costs.total(active))
        return cls(situation.signals["revive"].double(), situation.flop_price * rise, active)

    @property
    def worth(self) -> Tensor:
        """(L, U) boolean, pruned units that gain more than they cost."""
        return ~self.active & (self.gain > self.price)

    def sentence(self) -> str:
        """A clause for the log; empty where nothing is pruned."""
        if bool(self.active.all()):
            return ""
        gone = ~self.active
        best = (self.gain - self.price).masked_fill(self.active, -torch.inf).argmax()
        gain, price = float(self.gain.flatten()[best]), float(self.price.flatten()[best])
        return (
            f"; {int(self.worth.sum())} of {int(gone.sum())} pruned units are worth their FLOPs (the best gains {gain:.2g} nats "
            f"and costs {price:.2g})"
        )
