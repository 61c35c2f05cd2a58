"""A run of the cycle as one episode, to be replayed step by step: a step is a phase."""

from __future__ import annotations

from collections import Counter

from plasticity_env.common.tracking import EpisodeStep
from plasticity_env.cycle.record import RunRecord
from plasticity_env.cycle.run_rows import CONTROL, EXPERIMENT

DONE = {"prune": "pruned", "revive": "revived", "grow": "grown"}
DECISIONS = ["cycle", "step", "phase", "edit", "layer", "head", "decider", "reason"]


def run_episode(record: RunRecord) -> list[EpisodeStep]:
    """The heads after every phase, by the edits that led to them, with perplexities on test text; empty before any measuring.

    Args:
        record: What the run has written so far.
    """
    if not record.signals:
        return []
    shape = record.signals[0].active
    active = [[1 for _ in row] for row in shape]
    control = {
        (row.cycle, row.phase): row.ppl for row in record.evaluations if (row.arm, row.split) == (CONTROL, "test")
    }
    steps = []
    for row in record.evaluations:
        if (row.arm, row.split) != (EXPERIMENT, "test"):
            continue
        events = [event for event in record.events if (event.cycle, event.phase) == (row.cycle, row.phase)]
        for event in events:
            active[event.layer][event.head] = int(event.edit != "prune")
        counts = Counter(DONE.get(event.edit, event.edit) for event in events)
        edits = ", ".join(f"{count} {what}" for what, count in counts.items())
        where = f"cycle {row.cycle}, {row.phase}" if row.cycle else row.phase
        numbers = {"ppl": row.ppl, "flops_kept": row.flops_kept}
        if (row.cycle, row.phase) in control:
            numbers["control_ppl"] = control[row.cycle, row.phase]
        note = f"{where.replace('_', ' ')}{': ' if edits else ''}{edits}"
        steps.append(EpisodeStep([list(line) for line in active], note, numbers))
    return steps


def decision_rows(record: RunRecord) -> list[list[object]]:
    """A row of `DECISIONS` for every edit."""
    return [[getattr(event, name) for name in DECISIONS] for event in record.events]
