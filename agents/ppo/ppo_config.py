"""Arguments of PPO, which every agent that trains the `HeadNetwork` by policy gradients takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from plasticity_env.common.arguments import check_counts, given
from plasticity_env.common.cli import words
from plasticity_env.common.errors import unknown
from plasticity_env.common.values import LARGEST_RATE, check_number

if TYPE_CHECKING:
    from plasticity_env.controllers.network import HeadNetwork, NetworkConfig

LARGEST = 1e6  # of a weight in the loss or a logit


@dataclass(frozen=True)
class PPOConfig:
    """Arguments of PPO."""

    total_timesteps: int = 8192
    """environment steps in all"""
    num_steps: int = 16
    """steps of each environment in one rollout"""
    learning_rate: float = 1e-3
    """learning rate of Adam; falls linearly to 0"""
    gamma: float = 1.0
    """discount; 1 keeps the potential-based reward free of loops"""
    gae_lambda: float = 0.95
    """lambda of generalised advantage estimation"""
    num_minibatches: int = 4
    """minibatches of one epoch"""
    update_epochs: int = 4
    """epochs over each rollout"""
    clip_coef: float = 0.2
    """clipping of each head's probability ratio"""
    ent_coef: float = 0.003
    """weight of the mean entropy of a decision"""
    vf_coef: float = 0.5
    """weight of the value loss"""
    max_grad_norm: float = 0.5
    """gradient norm limit"""
    factored_baseline: bool = True
    """free each head's advantage of the estimated effects of the other heads' choices"""
    target_kl: float = 0.05
    """stop the epochs of an update once the mean KL of a decision exceeds this"""
    width: int = 64
    """hidden units of the network"""
    context: str = "deep_sets"
    """how the network relates heads to each other: deep_sets, attention or linear (not at all; HeadRank only)"""
    keep_bias: float = 2.0
    """initial logit of keep"""
    head_features: str = ""
    """columns of the observation that the network reads for each head, separated by commas; empty: all that fit any model"""
    checkpoint_every: int = 1
    """updates between checkpoints"""
    seed: int = 1
    """seed of network, rollouts and environments"""
    device: str = "auto"
    """where the network lives: auto, cpu, cuda, cuda:0, ..."""

    def __post_init__(self) -> None:
        check_counts(self, total_timesteps=1, num_steps=1, num_minibatches=1, update_epochs=1, checkpoint_every=1)
        check_counts(self, width=1, seed=0)
        check_number("learning_rate", self.learning_rate, 0, LARGEST_RATE, above=True)
        for name in ("clip_coef", "max_grad_norm", "target_kl"):
            check_number(name, getattr(self, name), 0, above=True)
        for name in ("gamma", "gae_lambda"):
            check_number(name, getattr(self, name), 0, 1)
        for name in ("ent_coef", "vf_coef", "keep_bias"):
            check_number(name, getattr(self, name), -LARGEST, LARGEST)
        if given(self, "width", "context", "keep_bias", "head_features"):
            self.network_config()
        if given(self, "device"):
            from plasticity_env.model.loading import check_device

            check_device(self.device)

    def network_config(self) -> NetworkConfig:
        """Shape of the network.

        Raises:
            InputError: A shape that does not fit, or features that no observation has.
        """
        from plasticity_env.controllers.network import NetworkConfig
        from plasticity_env.envs.observation import HEAD_FEATURES, NETWORK_HEAD_FEATURES

        features = tuple(words(self.head_features)) or NETWORK_HEAD_FEATURES
        missing = [name for name in features if name not in HEAD_FEATURES]
        if missing:
            raise unknown("head feature", missing[0], HEAD_FEATURES)
        return NetworkConfig(features, width=self.width, context=self.context, keep_bias=self.keep_bias)

    def make_network(self) -> HeadNetwork:
        """A fresh network of this shape, its weights drawn from torch's global generator."""
        from plasticity_env.controllers.network import HeadNetwork

        return HeadNetwork(self.network_config())
