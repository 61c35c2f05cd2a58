"""Who decides in an experiment: any pruning strategy by name; controllers are in `plasticity_env.cycle.controller_decider`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from plasticity_env.common.errors import InputError, unknown
from plasticity_env.data.text import TextSplits
from plasticity_env.model.flops import CostTable
from plasticity_env.model.modes import PruningMode
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.signals.measure import HeadSignals
from plasticity_env.strategies.entropy_direction import try_entropy_directions
from plasticity_env.strategies.pruning import (
    DIRECTIONS,
    PRUNING_STRATEGIES,
    AttentionEntropyStrategy,
    HeadView,
    Strategy,
    find_strategy,
)

TRIAL_BLOCKS = 16  # of calibration text, that "auto" tries both directions of entropy on


@dataclass(frozen=True)
class Situation:
    """What a decision may look at.

    Attributes:
        model: The model as it is now; it must not be edited.
        signals: Signals of the model on calibration text.
        active: (L, H) boolean.
        cycle, cycles: Number of the cycle, from 1, and how many there are.
        step: Optimizer steps since the start.
        level: Share of all slots that may be pruned after this decision.
        text: Its calibration split may be read; the test split may not.
        generator: Source of every random choice.
        costs: FLOPs per token.
        loss, control_loss: Losses of both arms on reward text, nats per token.
        age: (L, H) integers, decisions since the head's last edit.
        decision, decisions: Number of this decision from 0 on, and how many the run plans.
        flop_price: Price of a nat of log FLOPs.
        repairs: Whether the model is repaired after each decision.
        trains: Whether the model learns between decisions.
        reconsider: Adaptive mode: pruned heads stand for choice again.
    """

    model: PlasticModel
    signals: HeadSignals
    active: Tensor
    cycle: int
    cycles: int
    step: int
    level: float
    text: TextSplits
    generator: torch.Generator
    costs: CostTable
    loss: float
    control_loss: float
    age: np.ndarray
    decision: int = 0
    decisions: int = 1
    flop_price: float = 4.0
    repairs: bool = False
    trains: bool = True
    reconsider: bool = True

    @property
    def count(self) -> int:
        """Heads that may be pruned after this decision; one head is left in any case."""
        return pruned_count(self.level, self.active)

    @property
    def adaptive(self) -> bool:
        """Whether pruned heads may come back."""
        return self.model.mode is PruningMode.ADAPTIVE


@dataclass(frozen=True)
class Decision:
    """Edits; masks are (L, H) boolean, True for the heads to edit, and disjoint.

    Attributes:
        prune, revive, grow: Heads to prune, to revive and to grow.
        reasons: A sentence by (layer, head), for the event that is written down.
        details: What else there is to tell of it, JSON-able.
    """

    prune: Tensor
    revive: Tensor
    grow: Tensor
    reasons: Mapping[tuple[int, int], str] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def edits(self) -> list[tuple[str, Tensor]]:
        """("prune", mask), ("revive", mask), ("grow", mask)."""
        return [("prune", self.prune), ("revive", self.revive), ("grow", self.grow)]


class Decider(ABC):
    """Decides which heads to prune, revive and grow.

    Attributes:
        name: Name in tables and events.
        needs_obs: Whether its signals must hold the OBS score.
        needs_residual: Whether they must hold the residual scores.
        needs_signals: Registered signals that they must hold beside the standard ones.
        grows: Whether ``Decision.grow`` is what grows; else growth is by the settings' growth strategy.
    """

    name: str
    needs_obs: bool = False
    needs_residual: bool = False
    needs_signals: tuple[str, ...] = ()
    grows: ClassVar[bool] = False

    @abstractmethod
    def decide(self, situation: Situation) -> Decision:
        """Choose edits; nothing is edited here."""

    def learn(self, reward: float) -> None:  # noqa: B027 (most deciders learn nothing)
        """Be told what the last decision earned.

        Args:
            reward: Rise of log(ppl_control / ppl) - price * log(flops / flops_0) since the decision, nats.
        """

    def taken_back(self, heads: Tensor) -> None:  # noqa: B027
        """Be told which heads that the last decision grew did not stay, before it is told what the others earned.

        Args:
            heads: (L, U) boolean.
        """

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know, in tensors and plain containers."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 (and most remember nothing)
        """Go on from `state_dict`."""


class StrategyDecider(Decider):
    """Prunes by a strategy to the level that is asked for.

    In adaptive mode all slots stand for choice (the strategies measure pruned heads too), so that a pruned head which
    would now be kept is revived and another one goes. Scores that are 0 for pruned heads (obs, residual_fisher) never
    revive.

    Args:
        strategy: Name in `PRUNING_STRATEGIES`, or a strategy.
        prune_entropy: Direction of "entropy": "high", "low" or "auto", which tries both on calibration text each time.

    Raises:
        InputError: No such strategy or direction.
    """

    def __init__(self, strategy: str | Strategy = "fisher", prune_entropy: str = "auto") -> None:
        if prune_entropy not in DIRECTIONS:
            raise unknown("entropy direction", prune_entropy, DIRECTIONS)
        self.strategy = (
            AttentionEntropyStrategy(prune_entropy)
            if strategy == "entropy"
            else find_strategy(PRUNING_STRATEGIES, strategy, "pruning")
        )
        self.name = strategy if isinstance(strategy, str) else strategy.name
        self.needs_obs, self.needs_signals = "obs" in self.strategy.needs, self.strategy.signals
        self.needs_residual = bool(self.strategy.needs & {"residual", "crossfit"})

    def decide(self, situation: Situation) -> Decision:
        active, count = situation.active, situation.count
        over = situation.adaptive and situation.reconsider
        candidates = torch.ones_like(active) if over else active
        wanted = count if over else max(0, count - int((~active).sum()))
        costs = situation.costs.marginal(active) if situation.model.mlp_blocks else None
        view = HeadView(candidates, situation.model.heads, situation.generator, situation.signals, costs=costs)
        strategy, details = self._directed(situation, candidates, wanted)
        chosen = strategy.select(view, candidates, wanted)
        rule = f"{self.name} ({details['direction']} first)" if details else self.name
        prune, revive = chosen & active, (~active & ~chosen) if over else torch.zeros_like(active)
        reasons, units = {}, "units" if situation.model.mlp_blocks else "heads"
        for verb, mask in (("among", prune), ("no longer among", revive)):
            for where in mask.nonzero().tolist():
                slots = int(candidates.sum())
                reasons[where[0], where[1]] = f"{verb} the {wanted} of {slots} {units} that {rule} prunes first"
        return Decision(prune, revive, torch.zeros_like(active), reasons, details)

    def _directed(self, situation: Situation, candidates: Tensor, count: int) -> tuple[Strategy, dict[str, Any]]:
        """The strategy with its direction, for one that has any, and what there is to tell of it."""
        direction = getattr(self.strategy, "direction", None)
        if direction != "auto":
            return self.strategy, {} if direction is None else {"direction": direction}
        ids = situation.text.some("calibration", TRIAL_BLOCKS)
        trial = try_entropy_directions(situation.model, situation.signals, candidates, count, ids)
        told = {"direction": trial.direction, "loss_high": trial.high, "loss_low": trial.low}
        return AttentionEntropyStrategy(trial.direction), told


def pruned_count(level: float, active: Tensor) -> int:
    """Heads that a share of all slots is: rounded, and one head less than all at most.

    Raises:
        InputError: The share is outside [0, 1).
    """
    if not 0 <= level < 1:
        raise InputError(f"a pruning level must lie in [0, 1), got {level!r}")
    return min(round(level * active.numel()), active.numel() - 1)
