"""The network of a learned router: it predicts what each structure costs in loss, and weighs that against its FLOPs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plasticity_env.common.errors import InputError, check_least


@dataclass(frozen=True)
class RouterConfig:
    """Shape of a network.

    Attributes:
        inputs: p, columns of the prefix.
        structures: Number K of structures.
        width: Width of the two hidden layers.
    """

    inputs: int
    structures: int
    width: int = 32

    def __post_init__(self) -> None:
        for name, least in (("inputs", 1), ("structures", 2), ("width", 1)):
            if check_least(name, getattr(self, name), least) > 1_000_000:
                raise InputError(f"{name} of a router must be at most 1000000, got {getattr(self, name)}")

    @classmethod
    def from_json(cls, data: Any) -> RouterConfig:
        """Read what ``vars(config)`` wrote."""
        return cls(**{name: data[name] for name in cls.__dataclass_fields__})


class RouterNetwork(nn.Module):
    """Scores of structures: minus the predicted rise of the loss, minus price times log FLOPs kept.

    So one network serves every price, and its predictions can be fitted by regression before any policy is trained. Its
    logits are the scores times a learned sharpness.

    Args:
        config: Shape of the network.
        mean_rise: (K,) rise of the loss on the train texts, to which predictions are corrections.
        log_cost: (K,) log FLOPs kept of a whole text.
    """

    mean_rise: Tensor
    log_cost: Tensor

    def __init__(self, config: RouterConfig, mean_rise: Tensor, log_cost: Tensor) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean_rise", mean_rise.float().clone())
        self.register_buffer("log_cost", log_cost.float().clone())
        width = config.width
        self.trunk = nn.Sequential(nn.Linear(config.inputs, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh())
        self.correction = nn.Linear(width, config.structures)
        self.baseline = nn.Linear(width, 1)
        self.log_sharpness = nn.Parameter(torch.tensor(4.0))  # of logits; scores differ by hundredths of a nat
        for layer in (self.correction, self.baseline):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def rise(self, prefix: Tensor) -> Tensor:
        """(B, K) predicted rise of the loss over the dense model's, nats per token."""
        found: Tensor = self.mean_rise + self.correction(self.trunk(prefix))
        return found

    def scores(self, prefix: Tensor, log_price: Tensor) -> Tensor:
        """(B, K) predicted potential of each choice, nats.

        Args:
            prefix: (B, p) columns of the prefix.
            log_price: (B,) log of the price.
        """
        return -self.rise(prefix) - log_price.exp()[:, None] * self.log_cost

    def forward(self, prefix: Tensor, log_price: Tensor) -> tuple[Tensor, Tensor]:
        """(B, K) logits and (B,) the value of the policy that they are, nats.

        Args:
            prefix: (B, p) columns of the prefix.
            log_price: (B,) log of the price.
        """
        scores = self.scores(prefix, log_price)
        logits = scores * self.log_sharpness.clamp(max=8.0).exp()
        value = (logits.softmax(1) * scores).sum(1).detach() + self.baseline(self.trunk(prefix))[:, 0]
        return logits, value
