"""What is noted of a run: optimizer steps, evaluations, phases, signals, edits, texts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

EXPERIMENT, CONTROL = "experiment", "control"
ARMS = (EXPERIMENT, CONTROL)
SIGNALS = ("entropy", "entropy_normalized", "gradient", "fisher", "magnitude", "activation")

Grid = list[list[float]]


@dataclass(frozen=True)
class StepRow:
    """One optimizer step of one arm.

    Attributes:
        arm: "experiment" or "control".
        cycle: 0 in the warm-up, then 1, 2, ...
        phase: "warmup", "fine_tuning", or another that trains.
        step: Optimizer steps of this arm since the start, this one included.
        loss: Mean of the step's batch, nats per token.
        grad_norm: Gradient norm of all weights, before clipping.
        learning_rate: Learning rate of the optimizer.
    """

    arm: str
    cycle: int
    phase: str
    step: int
    loss: float
    grad_norm: float
    learning_rate: float


@dataclass(frozen=True)
class EvaluationRow:
    """Loss of one arm on one split after a phase.

    Attributes:
        arm, cycle, phase, step: The same as in `StepRow`; cycle 0, phase "baseline" is before anything.
        loss: Nats per token.
        ppl: exp(loss).
        flops: Forward FLOPs per token with pruned heads removed.
        flops_kept: The same as a share of the dense model's.
        active_heads: Number of active heads.
        sparsity: Share of all head slots that is pruned.
        split: Split of the text.
    """

    arm: str
    cycle: int
    phase: str
    step: int
    loss: float
    ppl: float
    flops: float
    flops_kept: float
    active_heads: int
    sparsity: float
    split: str

    @property
    def heads_kept(self) -> float:
        """Share of all head slots that is active."""
        return 1 - self.sparsity


@dataclass(frozen=True)
class PhaseRow:
    """One phase that is over.

    Attributes:
        cycle, phase: The phase and its cycle.
        first_step, last_step: Optimizer steps before and after it.
        seconds: Seconds that it took.
        details: What else is to be told: decision of the warm-up, decider, counts, ...
    """

    cycle: int
    phase: str
    first_step: int
    last_step: int
    seconds: float
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SignalsRow:
    """What one measuring pass saw; every grid is (L, H).

    Attributes:
        cycle, phase, step: Time of the measurement.
        active: 1 where a head is active.
        gates: What its output is multiplied by.
        signals: Signals by name (see `SIGNALS`).
    """

    cycle: int
    phase: str
    step: int
    active: list[list[int]]
    gates: Grid
    signals: dict[str, Grid]


@dataclass(frozen=True)
class Stabilisation:
    """How the warm-up ended.

    Attributes:
        window: Steps that are averaged.
        threshold: Least relative improvement from one window to the next that counts as one.
        losses: Losses of every warm-up step, nats per token.
        smoothed: Means of whole windows.
        stabilised_at: Step, or None where the loss still fell when the steps were over.
        reason: The reason in a sentence.
    """

    window: int
    threshold: float
    losses: list[float]
    smoothed: list[float]
    stabilised_at: int | None
    reason: str


@dataclass(frozen=True)
class PruningEvent:
    """One edit of one head, with what led to it.

    Attributes:
        cycle, step, phase: Time of the edit.
        edit: "prune", "revive" or "grow".
        layer, head: Place of the head.
        decider: Name of the decider.
        signals: What was known of the head, by name.
        reason: The reason in a sentence.
    """

    cycle: int
    step: int
    phase: str
    edit: str
    layer: int
    head: int
    decider: str
    signals: dict[str, float]
    reason: str


@dataclass(frozen=True)
class Sample:
    """Text that the model wrote.

    Attributes:
        when: "baseline", "pruned" or "recovered".
        cycle: 0 for the baseline.
        prompt: What it went on from.
        text: What it wrote, without the prompt.
    """

    when: str
    cycle: int
    prompt: str
    text: str
