"""The same network as an RLlib `RLModule`, with action masks."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.distribution import Distribution
from ray.rllib.core.distribution.torch.torch_distribution import (
    TorchCategorical,
    TorchDeterministic,
    TorchDiagGaussian,
)
from ray.rllib.core.rl_module.apis import ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor, nn

from plasticity_env.controllers.network import HeadNetwork, NetworkConfig, Output
from plasticity_env.envs.edits import EDITS, KEEP, PRUNE

MASKED = -1e9


class HeadModule(TorchRLModule, ValueFunctionAPI):
    """Policy and value over the observations of `plasticity_env.agents.sb3.sb3.PadHeads`.

    Heads: one categorical a head; HeadEdit: one over all edits; HeadRank: a Gaussian around keeping over pruning, with one
    learned spread for all heads of any model. Padded slots add nothing to log-probabilities, entropies or gradients.
    ``model_config`` holds the network's shape, ``{"network": NetworkConfig.to_json()}``.
    """

    def setup(self) -> None:
        shape: Any = self.model_config
        self.network = HeadNetwork(NetworkConfig.from_json(shape["network"]))
        self.ranks = isinstance(self.action_space, spaces.Box)
        self.one_edit = isinstance(self.action_space, spaces.Discrete)
        if self.ranks:
            self.log_std = nn.Parameter(torch.zeros(1))

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {Columns.ACTION_DIST_INPUTS: self._inputs(batch[Columns.OBS], self._run(batch[Columns.OBS]))}

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        output = self._run(batch[Columns.OBS])
        return {
            Columns.ACTION_DIST_INPUTS: self._inputs(batch[Columns.OBS], output),
            Columns.EMBEDDINGS: output.value,
        }

    def compute_values(self, batch: dict[str, Any], embeddings: Any | None = None) -> Tensor:
        """(B,) expected returns; ``embeddings`` are those of `forward_train`."""
        return self._run(batch[Columns.OBS]).value if embeddings is None else embeddings

    def _run(self, observation: dict[str, Tensor]) -> Output:
        return self.network(observation["heads"], observation["globals"], observation["valid"] > 0.5)

    def _inputs(self, observation: dict[str, Tensor], output: Output) -> Tensor:
        """What the distribution is made of: masked logits, or mean and log standard deviation."""
        allowed, valid = observation["mask"] > 0.5, observation["valid"] > 0.5
        if self.ranks:
            mean = (output.edits[..., KEEP] - output.edits[..., PRUNE]).masked_fill(~valid, 0.0)
            return torch.cat([mean, self.log_std.expand_as(mean).masked_fill(~valid, 0.0)], -1)
        if self.one_edit:
            edits = (output.edits[..., 1:] - output.edits[..., :1]).masked_fill(~allowed[..., 1:], MASKED)
            return torch.cat([output.stop[:, None], edits.transpose(1, 2).flatten(1)], 1)
        return output.edits.masked_fill(~allowed, MASKED).flatten(1)

    def get_inference_action_dist_cls(self) -> Any:
        if self.ranks:
            return TorchDiagGaussian
        return TorchCategorical if self.one_edit else HeadChoices

    def get_exploration_action_dist_cls(self) -> Any:
        return self.get_inference_action_dist_cls()

    def get_train_action_dist_cls(self) -> Any:
        return self.get_inference_action_dist_cls()


class HeadChoices(Distribution):
    """K independent categoricals over keep, prune, revive, grow, in one tensor operation whatever K is.

    Args:
        logits: (..., K * 4).
    """

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.log_probs = logits.unflatten(-1, (-1, len(EDITS))).log_softmax(-1)

    @classmethod
    def from_logits(cls, logits: Any, **kwargs: Any) -> HeadChoices:
        return cls(logits)

    @staticmethod
    def required_input_dim(space: Any, **kwargs: Any) -> int:
        return int(space.nvec.sum())

    def sample(self, *, sample_shape: Any = None, **kwargs: Any) -> Tensor:
        uniform = torch.rand_like(self.log_probs).clamp(1e-12, 1 - 1e-7)
        return (self.log_probs - torch.log(-torch.log(uniform))).argmax(-1)

    def rsample(self, *, sample_shape: Any = None, **kwargs: Any) -> Tensor:
        raise NotImplementedError("choices have no reparameterised sample")

    def logp(self, value: Any, **kwargs: Any) -> Tensor:
        return self.log_probs.gather(-1, value.long()[..., None])[..., 0].sum(-1)

    def entropy(self, **kwargs: Any) -> Tensor:
        return -(self.log_probs.exp() * self.log_probs).sum((-2, -1))

    def kl(self, other: HeadChoices, **kwargs: Any) -> Tensor:  # type: ignore[override]
        return (self.log_probs.exp() * (self.log_probs - other.log_probs)).sum((-2, -1))

    def to_deterministic(self) -> TorchDeterministic:
        return TorchDeterministic(loc=self.log_probs.argmax(-1))
