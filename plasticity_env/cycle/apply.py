"""Carrying decisions out: edits, repair, and the budget that pruning must keep."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from plasticity_env.cycle.arms import Arm
from plasticity_env.cycle.deciders import Decider, Decision, Situation, pruned_count
from plasticity_env.cycle.run_rows import SIGNALS, PruningEvent
from plasticity_env.repair.whole import repair_model
from plasticity_env.signals.measure import HeadSignals


@dataclass
class Edited:
    """What a pruning phase did.

    Attributes:
        decisions: Decisions that were carried out, each with the signals that led to it.
        refused: The portion that would have broken the budget, with its perplexity ratio; None where none would.
        measured: (share pruned, perplexity over the control arm's) after each portion that was tried.
        waiting: Growth that a decider asked for, for the growth phase.
    """

    decisions: list[tuple[Decision, HeadSignals]] = field(default_factory=list)
    refused: str | None = None
    measured: list[tuple[float, float]] = field(default_factory=list)
    waiting: Tensor | None = None

    def details(self) -> dict[str, Any]:
        """Figures for the record: counts, the budget's measurements, and what the deciders said."""
        counts = {
            f"{done}": sum(int(getattr(decision, edit).sum()) for decision, _ in self.decisions)
            for edit, done in (("prune", "pruned"), ("revive", "revived"))
        }
        said: dict[str, Any] = {}
        for decision, _ in self.decisions:
            said.update(decision.details)
        budget = [{"pruned_share": share, "ppl_ratio": ratio} for share, ratio in self.measured]
        return {**counts, **said, **({"budget": budget, "refused": self.refused} if budget else {})}


def prune_to(
    level: float,
    arm: Arm,
    decider: Decider,
    situation: Callable[[float], Situation],
    control_loss: float,
) -> Edited:
    """Let a decider prune (and revive), within the budget where the settings have one.

    Without a budget that is one decision. With one, each decision may prune one portion more; after each the perplexity on
    reward text is compared with the control arm's, and a decision that breaks the budget is undone and tried again with
    half the portion, down to a single head.

    Args:
        level: Share of all slots that may be pruned in the end.
        arm: Arm whose model is edited.
        decider: Decider that chooses.
        situation: Makes the situation for a level, of the model as it is then.
        control_loss: Loss of the control arm on reward text.

    Returns:
        What was done.
    """
    settings, model = arm.settings, arm.model
    done = Edited()
    if settings.max_perplexity_increase is None:
        _carry_out(done, arm, decider, situation(level))
        return done
    most = math.log1p(settings.max_perplexity_increase)
    slots = model.active.numel()
    target, portion = pruned_count(level, model.active), max(1, round(settings.portion * slots))
    while (pruned := int((~model.active).sum())) < target:
        before = model.snapshot(weights=settings.adaptive)
        wanted = min(target, pruned + portion)
        count, waiting = len(done.decisions), done.waiting
        _carry_out(done, arm, decider, situation(wanted / slots))
        rise = arm.loss("reward") - control_loss
        now = int((~model.active).sum())
        done.measured.append((now / slots, math.exp(min(rise, 700.0))))
        if rise <= most:
            if now <= pruned:
                break  # the decider wants no more
            continue
        model.restore(before)
        del done.decisions[count:]
        done.waiting = waiting
        done.refused = f"{now} pruned heads: perplexity {math.exp(min(rise, 700.0)):.3f} times the control arm's"
        if wanted - pruned <= 1:
            break
        portion = max(1, (wanted - pruned) // 2)
    return done


def _carry_out(done: Edited, arm: Arm, decider: Decider, situation: Situation) -> None:
    decision = decider.decide(situation)
    arm.model.revive(decision.revive)
    arm.model.prune(decision.prune)
    repair(arm)
    done.decisions.append((decision, situation.signals))
    done.waiting = decision.grow if bool(decision.grow.any()) else done.waiting


def repair(arm: Arm) -> None:
    """Repair the model for its present mask, as the settings say."""
    repair_model(arm.model, arm.settings.repair, arm.calibration(), arm.settings.batch_size)


def aged(age: np.ndarray, decision: Decision) -> np.ndarray:
    """Decisions since each head's last edit, after one more decision."""
    edited = (decision.prune | decision.revive | decision.grow).numpy()
    return np.where(edited, 0, age + 1)


def events_of(
    decision: Decision, signals: HeadSignals | None, cycle: int, phase: str, step: int, decider: str
) -> list[PruningEvent]:
    """The edits of a decision as they are written down, in the order of layers, then heads."""
    events = []
    for edit, mask in decision.edits:
        for layer, head in mask.nonzero().tolist():
            known = {} if signals is None else signals_of(signals, layer, head)
            reason = decision.reasons.get((layer, head), "")
            events.append(PruningEvent(cycle, step, phase, edit, layer, head, decider, known, reason))
    return events


def signals_of(signals: HeadSignals, layer: int, head: int) -> dict[str, float]:
    """What was measured of one head."""
    names = (*SIGNALS, "gate_gradient", "revive", "obs", "residual_fisher")
    found = {name: getattr(signals, name) for name in names}
    return {name: float(values[layer, head]) for name, values in found.items() if values is not None}
