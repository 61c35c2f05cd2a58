"""Fit a linear ranking of heads to what each head really costs (`agents.head_costs`).

A ranking is judged by what it prunes: for a share k of the active heads, the summed cost of the k lowest-scored ones. That sum
is made differentiable by a soft choice, sigmoid((t - score) / temperature) with the threshold t such that the choices sum to
k (so every gradient is one of *which* heads go, not of how many), and the temperature falls while the fit goes on. Costs of a
state count in units of their root mean square, so that every state and model weighs alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from agents.head_costs import FEATURES, HeadCosts
from controllers.ann import ANNController
from controllers.network import HeadNetwork, NetworkConfig
from plasticity_env.edits import KEEP
from plasticity_env.errors import InputError, unknown

SHARES = (0.06, 0.12, 0.25, 0.4)  # of the active heads: what a decision of an episode takes
START = {"residual_gradient_z": 1.0, "gradient_z": 0.5}


@dataclass(frozen=True)
class FitConfig:
    """How a ranking is fitted."""

    features: tuple[str, ...] = (
        *("fisher_z", "gradient_z", "residual_fisher_z", "residual_gradient_z"),
        *("entropy_z", "layer_active", "group_active", "depth", "layer_residual_rank"),
    )
    """columns of the observation that the score is linear in"""
    steps: int = 300
    """steps of AdamW"""
    learning_rate: float = 0.02
    """of AdamW; falls linearly to 0"""
    weight_decay: float = 1e-3
    """of AdamW"""
    temperature: float = 0.5
    """of the soft choice at the start, in units of the scores' spread; falls to 0.15 of it"""
    batch: int = 48
    """states of each model in a step"""
    scale: float = 3.0
    """the fitted weights are multiplied by this: a ranking is the same, a policy that samples explores less"""
    fit_seed: int = 0
    """of the batches"""

    def __post_init__(self) -> None:
        wrong = [name for name in self.features if name not in FEATURES]
        if wrong or not self.features:
            raise unknown("feature", wrong[0] if wrong else "", FEATURES)
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)!r}")
        for name in ("temperature", "learning_rate", "scale"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} must be a number above 0, got {getattr(self, name)!r}")
        if not 0 <= self.weight_decay < math.inf:
            raise InputError(f"weight_decay must be a number of at least 0, got {self.weight_decay!r}")


@dataclass(frozen=True)
class StateCosts:
    """Costs of S states of one model with N heads, ready to be fitted to.

    Attributes:
        features: (S, N, F) that the score is linear in.
        cost: (S, N) in units of each state's root mean square; 0 where unknown.
        known: (S, N) boolean.
    """

    features: Tensor
    cost: Tensor
    known: Tensor


def fit_ranking(files: Sequence[Path], config: FitConfig) -> ANNController:
    """Fit a linear controller to the costs of some models.

    Args:
        files: Of `HeadCosts`, a model each.
        config: How.

    Raises:
        InputError: No file, or a feature that the files lack.
    """
    if not files:
        raise InputError("no costs to fit to: measure some first")
    data = [_read(path, config.features) for path in files]
    weights = fit_weights(data, config)
    network = HeadNetwork(NetworkConfig(head_features=config.features, context="linear"))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.linear.weight[KEEP] = config.scale * weights
    info = {"agent": "ranking_fit", "models": [path.stem for path in files], "states": [len(d.cost) for d in data]}
    return ANNController(network.eval(), info=info)


def fit_weights(data: Sequence[StateCosts], config: FitConfig) -> Tensor:
    """(F,) weights that make the soft choices cheap, from the costs of some models.

    Args:
        data: Of each model.
        config: How; its ``features`` name the columns.
    """
    weights = torch.tensor([START.get(name, 0.0) for name in config.features]).requires_grad_()
    optimizer = torch.optim.AdamW([weights], lr=config.learning_rate, weight_decay=config.weight_decay)
    generator = torch.Generator().manual_seed(config.fit_seed)
    for step in range(config.steps):
        left = 1 - step / config.steps
        share, temperature = SHARES[step % len(SHARES)], config.temperature * max(0.15, left)
        optimizer.param_groups[0]["lr"] = config.learning_rate * left
        loss = torch.zeros(())
        for each in data:
            index = torch.randint(len(each.cost), (config.batch,), generator=generator)
            known, cost = each.known[index], each.cost[index]
            count = known.sum(1)
            scores = _standard(each.features[index] @ weights, known)
            chosen = soft_choice(scores, known, (share * count).clamp(min=1), temperature)
            loss = loss + ((chosen * cost).sum(1) / (share * count)).mean() / len(data)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return weights.detach()


def soft_choice(scores: Tensor, known: Tensor, count: Tensor, temperature: float) -> Tensor:
    """How much each head is chosen when the ``count`` lowest-scored ones go; sums to ``count`` in every row.

    Args:
        scores: (S, N).
        known: (S, N) boolean; others are not chosen.
        count: (S,) how many.
        temperature: 0 would be the hard choice.

    Returns:
        (S, N) in [0, 1], differentiable with the sums held.
    """
    free = scores.detach()
    low = free.masked_fill(~known, torch.inf).amin(1) - 30 * temperature
    high = free.masked_fill(~known, -torch.inf).amax(1) + 30 * temperature
    for _ in range(50):
        middle = (low + high) / 2
        much = (torch.sigmoid((middle[:, None] - free) / temperature) * known).sum(1) > count
        high, low = torch.where(much, middle, high), torch.where(much, low, middle)
    threshold = (low + high) / 2
    soft = torch.sigmoid((threshold[:, None] - free) / temperature) * known
    pull = soft * (1 - soft)  # d threshold / d scores, by the implicit function theorem
    moved = (pull * scores).sum(1) / pull.sum(1).clamp(min=1e-9)
    threshold = threshold + moved - moved.detach()
    return torch.sigmoid((threshold[:, None] - scores) / temperature) * known


def cost_of_choice(scores: Tensor, data: StateCosts, share: float) -> float:
    """Mean over states of the summed cost of the lowest-scored ``share`` of the known heads (a hard choice)."""
    total = 0.0
    for row, cost, known in zip(scores, data.cost, data.known, strict=True):
        count = max(1, round(share * int(known.sum())))
        total += float(cost[row.masked_fill(~known, torch.inf).argsort(stable=True)[:count]].sum())
    return total / len(data.cost)


def leave_one_out(files: Sequence[Path], config: FitConfig, against: str = "fisher_z") -> dict[str, list[float]]:
    """For each model, what a ranking fitted to the others' costs pays there over what one column alone pays.

    Returns:
        By model, a ratio for each of 12%, 25% and 40% of the active heads.

    Raises:
        InputError: Fewer than two models.
    """
    check_others(len(files))
    found = {}
    for place, path in enumerate(files):
        others = [_read(other, config.features) for number, other in enumerate(files) if number != place]
        mine, rule = _read(path, config.features), _read(path, (against,))
        scores = mine.features @ fit_weights(others, config)
        shares = (0.12, 0.25, 0.4)
        found[path.stem] = [
            cost_of_choice(scores, mine, share) / cost_of_choice(rule.features[..., 0], rule, share) for share in shares
        ]
    return found


def check_others(models: int) -> None:
    """Refuse `leave_one_out` where leaving one out leaves none."""
    if models < 2:
        raise InputError(f"leave_one_out fits to the other models, and there is {models}: name at least two")


def _standard(scores: Tensor, known: Tensor) -> Tensor:
    count = known.sum(1, keepdim=True)
    centred = scores - (scores * known).sum(1, keepdim=True) / count
    spread = ((centred * known).square().sum(1, keepdim=True) / count + 1e-3).sqrt()
    return centred / spread


def _read(path: Path, features: Sequence[str]) -> StateCosts:
    costs = HeadCosts.load(path)
    missing = [name for name in features if name not in costs.names]
    if missing:
        raise InputError(f"{str(path)!r} lacks the feature {missing[0]!r}; it has {', '.join(costs.names)}")
    known = ~costs.cost.isnan()
    enough = known.sum(1) >= 4
    if not bool(enough.any()):
        raise InputError(f"{str(path)!r} has no state with four known heads: measure more states")
    known, cost = known[enough], costs.cost[enough].nan_to_num()
    unit = (cost.square().sum(1, keepdim=True) / known.sum(1, keepdim=True)).sqrt() + 1e-4
    columns = [costs.names.index(name) for name in features]
    return StateCosts(costs.features[enough][..., columns], cost / unit, known)
