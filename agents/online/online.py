"""A controller that learns while it decides: REINFORCE with a baseline, one step after each decision has been paid.

    loss = -A * mean over heads of log p(edit) - c * mean over heads of the policy's entropy
    A    = clip((r - b) / s, -3, 3),   b <- d b + (1 - d) r,   s^2 <- d s^2 + (1 - d) (r - b)^2

r is what the decision earned, a rise of the environment's potential against the control arm. b starts at 0, which is what a
model that is left alone earns: the control arm trains the same text. Log-probabilities are those under the action mask; an edit
that was taken back before anything was paid has no part in the first mean.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from plasticity_env.agents.ppo.padding import Batch, MaskedCategoricals, decide, pad
from plasticity_env.common.arguments import check_counts
from plasticity_env.common.errors import InputError
from plasticity_env.common.values import LARGEST_RATE, check_number
from plasticity_env.controllers.ann import ANNController
from plasticity_env.envs.observation import Observation

TAKEN_BACK = -1  # stands for an edit that was chosen and did not stay
CLIP = 3.0  # of an advantage in units of its usual size: one disaster shall not undo all else


@dataclass(frozen=True)
class OnlineConfig:
    """How an online controller learns."""

    learning_rate: float = 0.01
    """learning rate of Adam"""
    entropy_bonus: float = 0.01
    """weight of the policy's entropy"""
    baseline_decay: float = 0.8
    """share of the old baseline that is kept at each reward"""
    max_grad_norm: float = 1.0
    """gradients are clipped to this norm"""
    seed: int = 0
    """seed of the sampled edits"""

    def __post_init__(self) -> None:
        check_number("controller_lr", self.learning_rate, 0, LARGEST_RATE)
        check_number("entropy_bonus", self.entropy_bonus, 0, 1e6)
        check_number("baseline_decay", self.baseline_decay, 0, 1, below=True)
        check_number("max_grad_norm", self.max_grad_norm, 0, above=True)
        check_counts(self, seed=0)


@dataclass(frozen=True)
class Choice:
    """A sampled decision.

    Attributes:
        edits: (N,) 0 keep, 1 prune, 2 revive, 3 grow.
        probabilities: (N, 4) of each edit, 0 where it is not allowed.
        log_prob: Log probability of the joint choice, nats.
        entropy: Entropy of the policy here, mean over heads, nats.
    """

    edits: np.ndarray
    probabilities: np.ndarray
    log_prob: float
    entropy: float


@dataclass(frozen=True)
class Lesson:
    """What was made of a reward.

    Attributes:
        reward: Reward in nats.
        baseline: Baseline that the reward was compared with.
        advantage: Advantage that was learned from.
        log_prob: Log probability of the choice that earned it, before the step.
        log_prob_after: The same after the update.
        grad_norm: Norm of the gradient before clipping.
    """

    reward: float
    baseline: float
    advantage: float
    log_prob: float
    log_prob_after: float
    grad_norm: float

    def to_json(self) -> dict[str, float]:
        """The lesson's numbers by name."""
        return asdict(self)


class OnlineLearner:
    """Samples an `ANNController`'s policy, and improves it.

    Args:
        controller: Its network is trained in place; ``deterministic`` and ``sparsity`` are not read.
        config: Arguments.
    """

    def __init__(self, controller: ANNController, config: OnlineConfig | None = None) -> None:
        self.controller, self.config = controller, config or OnlineConfig()
        self.network = controller.network
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=self.config.learning_rate, eps=1e-5)
        self.generator = torch.Generator().manual_seed(self.config.seed)
        self.baseline, self.square = 0.0, 0.0
        self.lessons = 0
        self._pending: tuple[Observation, Tensor] | None = None

    @torch.no_grad()
    def choose(self, observation: Observation) -> Choice:
        """Sample edits; the next `learn` is about them (about the latest, where several were sampled).

        Args:
            observation: Observation of ``plasticity/Heads-v1``, an action mask of (N, 4).
        """
        actions, _ = self._policy(observation)
        edits = actions.sample(self.generator)  # (1, N)
        self._pending = observation, edits
        return Choice(
            edits[0].cpu().numpy(),
            actions.log_probs[0].exp().cpu().numpy(),
            float(actions.log_prob(edits).sum()),
            float(actions.entropy().mean()),
        )

    def log_prob(self, observation: Observation, edits: np.ndarray) -> float:
        """Log-probability, nats, with which the policy makes (N,) edits together."""
        with torch.no_grad():
            actions, device = self._policy(observation)
            return float(actions.log_prob(torch.as_tensor(edits)[None].to(device)).sum())

    def take_back(self, heads: Tensor) -> None:
        """Leave edits of the latest choice out of the next lesson: they were undone, so the reward is not theirs.

        Args:
            heads: (N,) boolean.
        """
        if self._pending is not None:
            observation, edits = self._pending
            self._pending = observation, edits.masked_fill(heads.to(edits.device), TAKEN_BACK)

    def learn(self, reward: float) -> Lesson | None:
        """Take one step of policy gradient for the latest choice; None where there is no choice to learn from.

        Args:
            reward: What it earned, nats.

        Raises:
            InputError: The reward is not finite; nothing is changed.
        """
        if self._pending is None:
            return None
        if not math.isfinite(reward):
            raise InputError(f"a reward must be finite, got {reward!r}: the model diverged")
        (observation, edits), self._pending = self._pending, None
        baseline, advantage = self.baseline, self._advantage(reward)
        actions, _ = self._policy(observation)
        stayed = edits != TAKEN_BACK
        log_probs = actions.log_prob(edits.where(stayed, 0)) * stayed  # (1, N)
        before = float(log_probs.detach().sum())
        loss = -advantage * log_probs.mean() - self.config.entropy_bonus * actions.entropy().mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(self.network.parameters(), self.config.max_grad_norm))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.lessons += 1
        self._note()
        with torch.no_grad():
            after = float((self._policy(observation)[0].log_prob(edits.where(stayed, 0)) * stayed).sum())
        return Lesson(reward, baseline, advantage, before, after, norm)

    def _note(self) -> None:
        """Say in the controller what has taught it."""
        self.controller.info |= {"agent": "online", "lessons": self.lessons, "seed": self.config.seed}

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes, in tensors and plain containers: ``torch.load(weights_only=True)`` reads it."""
        pending = None
        if self._pending is not None:
            observation, edits = self._pending
            pending = {name: torch.from_numpy(value) for name, value in observation.items()}, edits
        return {
            "network": {name: value.clone() for name, value in self.network.state_dict().items()},
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "baseline": self.baseline,
            "square": self.square,
            "lessons": self.lessons,
            "pending": pending,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`, bit for bit.

        Raises:
            InputError: If it belongs to a network of another shape.
        """
        try:
            self.network.load_state_dict(state["network"])
        except RuntimeError as error:
            raise InputError("the saved online controller is of another shape: make this one the same way") from error
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"].cpu())
        self.baseline, self.square, self.lessons = state["baseline"], state["square"], state["lessons"]
        if self.lessons:
            self._note()
        self._pending = None
        if state["pending"] is not None:
            observation, edits = state["pending"]
            shown = {name: value.cpu().numpy() for name, value in observation.items()}
            self._pending = Observation("heads", shown), edits

    def _policy(self, observation: Observation) -> tuple[MaskedCategoricals, torch.device]:
        device = next(self.network.parameters()).device
        batch: Batch = pad([observation], len(observation["heads"])).to(device)
        return decide(self.network, batch, one_edit=False).actions, device

    def _advantage(self, reward: float) -> float:
        decay, deviation = self.config.baseline_decay, reward - self.baseline
        kept = decay if self.lessons else 0.0  # the first deviation is all that is known of their size
        self.square = kept * self.square + (1 - kept) * deviation**2
        self.baseline = decay * self.baseline + (1 - decay) * reward
        return max(-CLIP, min(CLIP, deviation / math.sqrt(self.square))) if self.square > 1e-16 else 0.0
