"""Observations of models of different sizes in one padded batch, and the distribution over their actions."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from plasticity_env.controllers.base import allowed_edits, wants_scores
from plasticity_env.controllers.network import HeadNetwork
from plasticity_env.envs.edits import EDITS, PRUNE
from plasticity_env.envs.observation import Observation


@dataclass
class Batch:
    """B observations padded to N head slots.

    Attributes:
        heads: (B, N, F).
        globals: (B, G).
        mask: (B, N, 4) boolean, True = allowed; padding allows only keep.
        valid: (B, N) boolean, False for padding.
    """

    heads: Tensor
    globals: Tensor
    mask: Tensor
    valid: Tensor

    def __getitem__(self, index: Tensor) -> Batch:
        return Batch(*(getattr(self, field.name)[index] for field in fields(self)))

    def to(self, device: torch.device | str) -> Batch:
        """Move all tensors."""
        return Batch(*(getattr(self, field.name).to(device) for field in fields(self)))

    @classmethod
    def cat(cls, batches: list[Batch]) -> Batch:
        """Concatenate batches of one width."""
        return cls(*(torch.cat([getattr(b, field.name) for b in batches]) for field in fields(cls)))


def pad(observations: list[Observation], slots: int) -> Batch:
    """Stack observations of models with at most ``slots`` heads."""
    size, features = len(observations), observations[0]["heads"].shape[1]
    heads = np.zeros((size, slots, features), dtype=np.float32)
    mask = np.zeros((size, slots, len(EDITS)), dtype=bool)
    valid = np.zeros((size, slots), dtype=bool)
    mask[..., 0] = True
    for row, observation in enumerate(observations):
        count = len(observation["heads"])
        heads[row, :count] = observation["heads"]
        valid[row, :count] = True
        if wants_scores(observation):  # whether a score counts
            mask[row, :count, PRUNE] = observation["action_mask"]
        else:
            mask[row, :count] = allowed_edits(observation)
    globals_ = np.stack([observation["globals"] for observation in observations])
    return Batch(torch.from_numpy(heads), torch.from_numpy(globals_), torch.from_numpy(mask), torch.from_numpy(valid))


class MaskedCategoricals:
    """K independent masked categorical distributions for each of B rows.

    Args:
        logits: (B, K, A).
        mask: (B, K, A) boolean, True = allowed.
        valid: (B, K) boolean; log-probability and entropy of invalid entries are 0.
    """

    def __init__(self, logits: Tensor, mask: Tensor, valid: Tensor) -> None:
        self.valid = valid
        self.log_probs = logits.masked_fill(~mask, -1e9).log_softmax(-1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw (B, K) actions."""
        uniform = torch.rand(self.log_probs.shape, generator=generator).to(self.log_probs.device)
        gumbel = -torch.log(-torch.log(uniform.clamp(1e-12, 1 - 1e-7)))
        return (self.log_probs + gumbel).argmax(-1)

    def log_prob(self, actions: Tensor) -> Tensor:
        """(B, K) log-probability of each entry of ``actions`` (B, K)."""
        return self.log_probs.gather(-1, actions[..., None])[..., 0] * self.valid

    def entropy(self) -> Tensor:
        """(B, K) entropy in nats; masked actions contribute 0."""
        return -(self.log_probs.exp() * self.log_probs.clamp(min=-50)).sum(-1) * self.valid


class Decision(NamedTuple):
    """What the network says of a batch, as PPO needs it.

    Attributes:
        actions: Distribution over the K choices of each observation: N heads, or one edit.
        value: (B,) expected return.
        effects: (B, K, A) the critic's estimate of what each choice adds to the return, centred under the policy; None
            for a single choice.
    """

    actions: MaskedCategoricals
    value: Tensor
    effects: Tensor | None


def decide(network: HeadNetwork, batch: Batch, one_edit: bool) -> Decision:
    """Run the network on padded observations.

    Args:
        network: Evaluated on the batch.
        batch: Padded observations.
        one_edit: HeadEdit (one categorical over 1 + 3N) instead of Heads (N categoricals over 4).
    """
    output = network(batch.heads, batch.globals, batch.valid)
    if not one_edit:
        actions = MaskedCategoricals(output.edits, batch.mask, batch.valid)
        expected = (actions.log_probs.exp().detach() * output.effects).sum(-1, keepdim=True)
        return Decision(actions, output.value, (output.effects - expected) * batch.valid[..., None])
    edits = (output.edits[..., 1:] - output.edits[..., :1]).transpose(1, 2).flatten(1)  # (B, 3N)
    logits = torch.cat([output.stop[:, None], edits], 1)[:, None]  # (B, 1, 1 + 3N)
    allowed = torch.cat([torch.ones_like(batch.mask[:, :1, 0]), batch.mask[..., 1:].transpose(1, 2).flatten(1)], 1)
    every = torch.ones(len(logits), 1, dtype=torch.bool, device=logits.device)
    return Decision(MaskedCategoricals(logits, allowed[:, None], every), output.value, None)


def environment_action(action: np.ndarray, heads: int, slots: int, one_edit: bool) -> np.ndarray | int:
    """Cut a padded action (K,) down to what an environment with ``heads`` slots takes."""
    if not one_edit:
        return action[:heads]
    index = int(action[0]) - 1
    return 0 if index < 0 else 1 + index // slots * heads + index % slots
