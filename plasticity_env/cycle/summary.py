"""What a run comes to: one figure after each phase beside the control arm's, and what each cycle recovered."""

from __future__ import annotations

import math
from typing import Any

from plasticity_env.cycle.record import RunRecord
from plasticity_env.cycle.run_rows import CONTROL, EXPERIMENT, EvaluationRow

CYCLE_PHASES = ("analysis", "pruning", "measure", "growth", "fine_tuning", "evaluation")
SPLIT = "test"


def summarise(record: RunRecord) -> dict[str, Any]:
    """Summarise the test-split evaluations of a run, as far as it got.

    Returns:
        JSON-able: ``baseline``, ``warmup``, ``final`` and ``control`` (the control arm beside ``final``), each with loss,
        ppl, flops_kept, active_heads and sparsity; ``ppl_over_control`` at the end; ``cycles``, one entry a cycle with
        the same after each phase and ``recovered``, the share of the loss that pruning cost (over the control arm's, what
        decisions within fine-tuning cost included) that is back at the cycle's end; None where pruning cost nothing, or
        where such decisions were made and what they cost was not measured.
    """
    table: dict[tuple[str, int, str], EvaluationRow] = {
        (row.arm, row.cycle, row.phase): row for row in record.evaluations if row.split == SPLIT
    }
    experiment = [row for row in record.evaluations if row.split == SPLIT and row.arm == EXPERIMENT]
    if not experiment:
        return {}
    last = experiment[-1]
    control = table.get((CONTROL, last.cycle, last.phase), last)
    cycles = sorted({row.cycle for row in experiment if row.cycle})
    later = {row.cycle: _later_cost(row.details) for row in record.phases if row.phase == "fine_tuning"}
    named = {phase: _row(table.get((EXPERIMENT, 0, phase))) for phase in ("baseline", "warmup")}
    return {
        **named,
        "final": _row(last),
        "control": _row(control),
        "ppl_over_control": math.exp(last.loss - control.loss),
        "final_phase": last.phase,
        "cycles": [_cycle(table, cycle, later.get(cycle, 0.0)) for cycle in cycles],
        "edits": {edit: sum(event.edit == edit for event in record.events) for edit in ("prune", "revive", "grow")},
        "seconds": sum(row.seconds for row in record.phases),
    }


def _later_cost(details: dict[str, Any]) -> float | None:
    """What the decisions within a fine-tuning cost, nats; None where it was not measured (runs of earlier versions)."""
    return details.get("decisions_cost") if details.get("decisions") else 0.0


def _cycle(table: dict[tuple[str, int, str], EvaluationRow], cycle: int, later_cost: float | None) -> dict[str, Any]:
    own = {phase: _row(table.get((EXPERIMENT, cycle, phase))) for phase in CYCLE_PHASES}
    there = [phase for phase in CYCLE_PHASES if own[phase] is not None]
    control = _row(table.get((CONTROL, cycle, there[-1]))) if there else None
    found: dict[str, Any] = {"cycle": cycle, **own, "control": control, "recovered": None}
    ends = [
        (table.get((EXPERIMENT, cycle, phase)), table.get((CONTROL, cycle, phase)))
        for phase in ("pruning", "evaluation")
    ]
    if all(mine is not None and other is not None for mine, other in ends):
        cost, left = (mine.loss - other.loss for mine, other in ends)  # type: ignore[union-attr]
        if later_cost is not None and cost + later_cost > 0:
            found["recovered"] = 1 - left / (cost + later_cost)
    return found


def _row(row: EvaluationRow | None) -> dict[str, Any] | None:
    if row is None:
        return None
    names = ("step", "loss", "ppl", "flops_kept", "active_heads", "sparsity")
    return {name: getattr(row, name) for name in names}
