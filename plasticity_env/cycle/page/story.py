"""What the pictures of a run have in common: its moments, its heads' states, its evaluations, numbers as text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from plasticity_env.cycle.record import RunRecord
from plasticity_env.cycle.run_rows import EXPERIMENT, EvaluationRow, PruningEvent, SignalsRow

PHASE_NAMES = {"warmup": "warm-up", "fine_tuning": "fine-tuning"}
EDITS = ("prune", "revive", "grow")
DONE = {"prune": "pruned", "revive": "revived", "grow": "grown"}
SIGNAL_NAMES = {
    "entropy": "Entropy (nats)",
    "entropy_normalized": "Entropy (share of the highest possible)",
    "gradient": "Gradient (mean |dL/dgate|)",
    "activation": "Activity (norm of the head's output)",
    "fisher": "Importance (Fisher, mean (dL/dgate)²)",
    "magnitude": "Weights (norm of the output rows)",
}
ATTENTION_SIGNALS = ("entropy", "entropy_normalized")  # that blocks of MLP neurons have none of
# States of a head at a moment.
PRUNED, ACTIVE, JUST_PRUNED, JUST_REVIVED, JUST_GROWN = range(5)
_AFTER = {"prune": JUST_PRUNED, "revive": JUST_REVIVED, "grow": JUST_GROWN}
SHORT_PHASES = {"pruning": "prune", "growth": "grow", "fine_tuning": "tune", "evaluation": "eval", "analysis": "study"}


@dataclass(frozen=True)
class Moment:
    """Edits that were made together, and how the heads stood after them.

    Attributes:
        cycle, phase, step: Time of the moment; the phase is "start" before any edit.
        edits: Edits that were made then.
        states: (L, H) integers: ``PRUNED``, ``ACTIVE``, ``JUST_PRUNED``, ``JUST_REVIVED`` or ``JUST_GROWN``.
    """

    cycle: int
    phase: str
    step: int
    edits: tuple[PruningEvent, ...]
    states: np.ndarray

    @property
    def active(self) -> int:
        """How many heads are active then."""
        return int(np.isin(self.states, (PRUNED, JUST_PRUNED), invert=True).sum())


def phase_name(phase: str) -> str:
    """A phase as a reader calls it."""
    return PHASE_NAMES.get(phase, phase.replace("_", " "))


def moment_name(cycle: int, phase: str) -> str:
    """ "cycle 2, fine-tuning"; what comes before the first cycle has its phase's name."""
    return f"cycle {cycle}, {phase_name(phase)}" if cycle else phase_name(phase)


def finite(values: Iterable[float | None]) -> list[float | None]:
    """Numbers with None, a gap in a line, for what is missing or not finite."""
    return [None if value is None or not math.isfinite(value) else float(value) for value in values]


def grid_of(values: Sequence[Sequence[float | None]]) -> np.ndarray:
    """A (L, H) grid as floats, NaN for what is missing or not finite."""
    rows = [[math.nan if value is None else float(value) for value in row] for row in values]
    grid = np.array(rows, dtype=float)
    return np.where(np.isfinite(grid), grid, np.nan)


def short(value: Any, digits: int = 4) -> str:
    """A number or another value as text."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, float):
        return f"{value:.{digits}g}" if math.isfinite(value) else "–"
    return str(value)


def smooth(values: Sequence[float | None], width: int) -> list[float | None]:
    """Centred means over ``width`` values, of those that are finite."""
    held = np.array([math.nan if value is None else value for value in values], dtype=float)
    known = np.isfinite(held)
    window = np.ones(width)
    sums = np.convolve(np.where(known, held, 0.0), window, mode="full")
    counts = np.convolve(known.astype(float), window, mode="full")
    start = (width - 1) // 2
    means = sums[start : start + len(held)] / np.maximum(counts[start : start + len(held)], 1)
    return [float(mean) if there else None for mean, there in zip(means, known, strict=True)]


def headline(record: RunRecord, said: str) -> str:
    """The model and what is shown, above a picture; a run that is not finished says so."""
    status = record.config.get("status", "")
    cut = f" ({status})" if status in ("stopped", "failed", "running") else ""
    return f"{record.settings.get('model_name') or record.folder.name}: {said}{cut}"


def shown_split(record: RunRecord) -> str | None:
    """The text whose evaluations are shown: "test" where there is one."""
    splits = list(dict.fromkeys(row.split for row in record.evaluations))
    return "test" if "test" in splits else (splits[0] if splits else None)


def evaluations_of(record: RunRecord, arm: str) -> list[EvaluationRow]:
    """The shown evaluations of an arm, in the order of the run."""
    split = shown_split(record)
    return [row for row in record.evaluations if row.arm == arm and row.split == split]


def stages_of(record: RunRecord) -> list[EvaluationRow]:
    """The experiment's shown evaluations without those that found the model as the one before them left it."""
    kept: list[EvaluationRow] = []
    for row in evaluations_of(record, EXPERIMENT):
        same = kept and (row.step, row.active_heads) == (kept[-1].step, kept[-1].active_heads)
        if not (same and (row.ppl == kept[-1].ppl or row.phase in ("analysis", "measure"))):
            kept.append(row)
    return kept


def cycles_of(record: RunRecord) -> list[int]:
    """The cycles that have begun."""
    rows: list[Any] = [*record.steps, *record.evaluations, *record.phases, *record.signals, *record.events]
    return sorted({row.cycle for row in rows if row.cycle > 0})


def shape_of(record: RunRecord) -> tuple[int, int] | None:
    """(L, H), or None while nothing tells."""
    for row in record.signals:
        if row.active and row.active[0]:
            return len(row.active), len(row.active[0])
    if record.events:
        return max(event.layer for event in record.events) + 1, max(event.head for event in record.events) + 1
    return None


def units_of(record: RunRecord) -> str:
    """What is pruned, in a word: heads, or units where blocks of MLP neurons are among them."""
    return "units" if record.settings.get("mlp_blocks") else "heads"


def heads_of(record: RunRecord, width: int) -> int:
    """How many units of a layer are heads; they come before its blocks of MLP neurons.

    Args:
        record: Record of the run.
        width: Units of a layer.
    """
    return width - int(record.settings.get("mlp_blocks") or 0)


def grids_of(record: RunRecord, rows: Sequence[SignalsRow], name: str) -> list[np.ndarray]:
    """What a signal was in rows of one shape: (L, U) each, NaN where it was not measured or does not exist."""
    grids = []
    for row in rows:
        active = np.array(row.active)
        grids.append(grid_of(row.signals[name]) if name in row.signals else np.full(active.shape, math.nan))
        if name in ATTENTION_SIGNALS:
            grids[-1][:, heads_of(record, active.shape[1]) :] = math.nan
    return grids


def columns_of(record: RunRecord) -> str:
    """What the columns of a map of the run are."""
    return "head, then MLP block" if record.settings.get("mlp_blocks") else "head"


def unit_name(record: RunRecord, layer: int, unit: int) -> str:
    """ "3.2" for a head, "3 MLP 2" for a block of neurons."""
    shape = shape_of(record)
    heads = heads_of(record, shape[1]) if shape else unit + 1
    return f"{layer}.{unit}" if unit < heads else f"{layer} MLP {unit - heads}"


def moments_of(record: RunRecord) -> list[Moment]:
    """How the heads stood at the start and after each group of edits; empty while nothing is known of the heads."""
    shape = shape_of(record)
    if shape is None:
        return []
    active = np.ones(shape, bool)
    if record.signals and (not record.events or record.signals[0].step <= record.events[0].step):
        first = np.array(record.signals[0].active, dtype=bool)
        active = first if first.shape == shape else active
    moments = [Moment(0, "start", 0, (), active.astype(int))]
    groups: dict[tuple[int, str, int], list[PruningEvent]] = {}
    for event in record.events:
        if event.layer < shape[0] and event.head < shape[1]:
            groups.setdefault((event.cycle, event.phase, event.step), []).append(event)
    for (cycle, phase, step), edits in groups.items():
        states = np.where(np.isin(moments[-1].states, (PRUNED, JUST_PRUNED)), PRUNED, ACTIVE)
        for event in edits:
            states[event.layer, event.head] = _AFTER.get(event.edit, states[event.layer, event.head])
        moments.append(Moment(cycle, phase, step, tuple(edits), states))
    return moments


def last_step(record: RunRecord) -> int:
    """The latest optimizer step that anything speaks of."""
    rows: list[Any] = [*record.steps, *record.evaluations, *record.events, *record.signals]
    return max([row.step for row in rows] + [row.last_step for row in record.phases], default=0)


def heads_in_all(record: RunRecord) -> int | None:
    """Number of head slots."""
    shape = shape_of(record)
    if shape and record.signals:
        return shape[0] * shape[1]
    for row in record.evaluations:
        if row.sparsity == 0:
            return row.active_heads
    return None


def last_of(rows: list[EvaluationRow], cycle: int, *phases: str) -> EvaluationRow | None:
    """The latest evaluation of a cycle after one of the phases."""
    found = [row for row in rows if row.cycle == cycle and row.phase in phases]
    return found[-1] if found else None


def reference(record: RunRecord, row: EvaluationRow) -> EvaluationRow | None:
    """The control arm's evaluation at the moment of an experiment's one, or None: not measured."""
    control = [other for other in record.evaluations if other.arm != EXPERIMENT and other.split == row.split]
    same = [other for other in control if (other.cycle, other.phase) == (row.cycle, row.phase)]
    same = same or [other for other in control if other.step == row.step]
    return same[-1] if same else None


def heavy_tailed(grids: Sequence[np.ndarray]) -> bool:
    """Whether few values are far above the others, so that only their logarithms can be told apart."""
    values = np.concatenate([grid.reshape(-1) for grid in grids]) if grids else np.empty(0)
    values = values[np.isfinite(values) & (values > 0)]
    return len(values) > 1 and float(values.max()) > 20 * float(np.median(values))
