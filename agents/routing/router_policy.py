"""A router's network as a policy of Stable-Baselines3."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from plasticity_env.controllers.routers.router_network import RouterNetwork


class RouterExtractor(BaseFeaturesExtractor):
    """Runs a network on flat observations; its features are the logits and, last, the value.

    Args:
        observation_space: Flat observations of ``plasticity/Route-v0``.
        network: Network whose weights are trained.
        log_price: Column of the log price.
    """

    def __init__(self, observation_space: gym.spaces.Box, network: RouterNetwork, log_price: int) -> None:
        super().__init__(observation_space, network.config.structures + 1)
        self.network, self._log_price = network, log_price

    def forward(self, observations: Tensor) -> Tensor:
        inputs = self.network.config.inputs
        logits, value = self.network(observations[:, :inputs], observations[:, self._log_price])
        return torch.cat([logits, value[:, None]], 1)


class _Columns(nn.Module):
    """Some columns of the features.

    Args:
        start, stop: First column, and the one after the last.
    """

    def __init__(self, start: int | None, stop: int | None) -> None:
        super().__init__()
        self._slice = slice(start, stop)

    def forward(self, features: Tensor) -> Tensor:
        return features[:, self._slice]


class RouterPolicy(ActorCriticPolicy):
    """Takes logits and value as the extractor gives them; pass ``net_arch=[]`` and ``ortho_init=False``."""

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        self.action_net, self.value_net = _Columns(None, -1), _Columns(-1, None)  # type: ignore[assignment]
        options: dict[str, Any] = {"lr": lr_schedule(1), **self.optimizer_kwargs}
        self.optimizer = self.optimizer_class(self.parameters(), **options)
