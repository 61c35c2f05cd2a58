"""A run stage by stage, in tables: perplexity before and after each phase, active heads, improvement over cycles."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from plasticity_env.common.files import write_text
from plasticity_env.cycle.page.story import evaluations_of, moments_of
from plasticity_env.cycle.record import RunRecord
from plasticity_env.cycle.run_rows import CONTROL, EXPERIMENT
from plasticity_env.cycle.summary import summarise

SIGNS = ".oxrg"  # pruned, active, just pruned, just revived, just grown, in the order of `story`'s states


@dataclass(frozen=True)
class StageRow:
    """A phase between two evaluations on the test split.

    Attributes:
        cycle, phase: The phase and its cycle.
        steps: Optimizer steps that it took.
        ppl_before, ppl_after: Perplexity of the experiment before and after the stage.
        control_before, control_after: The same of the control arm; None where it was not evaluated.
        heads_before, heads_after: Active heads.
    """

    cycle: int
    phase: str
    steps: int
    ppl_before: float
    ppl_after: float
    control_before: float | None
    control_after: float | None
    heads_before: int
    heads_after: int


@dataclass(frozen=True)
class CycleRow:
    """What a cycle changed; perplexities of the test split.

    Attributes:
        cycle: Number of the cycle.
        heads: Active ones at its end.
        flops_kept: Share of the dense model's FLOPs at its end.
        ppl_before, ppl_pruned, ppl_after: Perplexity at its start, after its pruning and at its end.
        control: Perplexity of the control arm at its end.
        over_control: ppl_after / control.
        recovered: Share of the loss that pruning cost (over the control arm's) that is back at the end; None: no cost.
        better: Fall of log(over_control) since the end of the cycle before, nats; None in the first cycle.
    """

    cycle: int
    heads: int
    flops_kept: float
    ppl_before: float
    ppl_pruned: float
    ppl_after: float
    control: float
    over_control: float
    recovered: float | None
    better: float | None


def stage_rows(record: RunRecord) -> list[StageRow]:
    """Every phase that is over, from one evaluation to the next."""
    control = {(row.cycle, row.phase): row.ppl for row in evaluations_of(record, CONTROL)}
    rows = []
    for before, after in pairwise(evaluations_of(record, EXPERIMENT)):
        rows.append(
            StageRow(
                cycle=after.cycle,
                phase=after.phase,
                steps=after.step - before.step,
                ppl_before=before.ppl,
                ppl_after=after.ppl,
                control_before=control.get((before.cycle, before.phase)),
                control_after=control.get((after.cycle, after.phase)),
                heads_before=before.active_heads,
                heads_after=after.active_heads,
            )
        )
    return rows


def cycle_rows(record: RunRecord) -> list[CycleRow]:
    """Every cycle that is over."""
    rows: list[CycleRow] = []
    losses: list[float] = []
    for cycle in summarise(record).get("cycles", []):
        first, pruned, last, control = (cycle[name] for name in ("analysis", "pruning", "evaluation", "control"))
        if first is None or pruned is None or last is None:
            continue
        over = last["loss"] - control["loss"]
        rows.append(
            CycleRow(
                cycle=cycle["cycle"],
                heads=last["active_heads"],
                flops_kept=last["flops_kept"],
                ppl_before=first["ppl"],
                ppl_pruned=pruned["ppl"],
                ppl_after=last["ppl"],
                control=control["ppl"],
                over_control=last["ppl"] / control["ppl"],
                recovered=cycle["recovered"],
                better=losses[-1] - over if losses else None,
            )
        )
        losses.append(over)
    return rows


def stage_table(rows: Sequence[StageRow]) -> str:
    """The phases as text."""
    head = f"{'cycle':>5}  {'phase':<12}{'steps':>6}{'ppl before':>12}{'ppl after':>12}{'control':>10}{'heads':>12}"
    lines = [head, "-" * len(head)]
    for row in rows:
        control = "-" if row.control_after is None else f"{row.control_after:.2f}"
        heads = (
            str(row.heads_after) if row.heads_before == row.heads_after else f"{row.heads_before} -> {row.heads_after}"
        )
        lines.append(
            f"{row.cycle or '-':>5}  {row.phase:<12}{row.steps:>6}{row.ppl_before:>12.2f}{row.ppl_after:>12.2f}"
            f"{control:>10}{heads:>12}"
        )
    return "\n".join(lines) + "\n"


def cycle_table(rows: Sequence[CycleRow]) -> str:
    """The cycles as text."""
    head = (
        f"{'cycle':>5}{'heads':>7}{'FLOPs':>8}{'ppl before':>12}{'pruned':>10}{'after':>10}{'control':>10}"
        f"{'over control':>14}{'recovered':>11}{'better':>9}"
    )
    lines = [head, "-" * len(head)]
    for row in rows:
        back = "-" if row.recovered is None else f"{row.recovered:.0%}"
        better = "-" if row.better is None else f"{row.better:+.4f}"
        lines.append(
            f"{row.cycle:>5}{row.heads:>7}{row.flops_kept:>8.1%}{row.ppl_before:>12.2f}{row.ppl_pruned:>10.2f}"
            f"{row.ppl_after:>10.2f}{row.control:>10.2f}{row.over_control:>14.4f}{back:>11}{better:>9}"
        )
    return "\n".join(lines) + "\n"


def head_maps(record: RunRecord) -> str:
    """Active heads at the start and after each group of edits, one character a head, one line a layer."""
    parts = ["o active  . pruned  x just pruned  r just revived  g just grown\n"]
    for moment in moments_of(record):
        where = f"cycle {moment.cycle}, {moment.phase}" if moment.cycle else moment.phase
        grid = "\n".join(" ".join(SIGNS[state] for state in row) for row in moment.states.tolist())
        parts.append(f"{where} (step {moment.step}): {moment.active} active\n{grid}\n")
    return "\n".join(parts)


def write_stages(record: RunRecord) -> list[Path]:
    """Write ``stages.{json,txt}``, ``active_heads.txt`` and ``cycles.{json,txt}`` into the run's metrics folder."""
    stages, cycles = stage_rows(record), cycle_rows(record)
    texts = {
        "stages.json": json.dumps([asdict(row) for row in stages], indent=1) + "\n",
        "stages.txt": stage_table(stages),
        "active_heads.txt": head_maps(record),
        "cycles.json": json.dumps([asdict(row) for row in cycles], indent=1) + "\n",
        "cycles.txt": cycle_table(cycles),
    }
    paths = [record.folder / "metrics" / name for name in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_text(path, text)
    return paths
