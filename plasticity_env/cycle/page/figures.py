"""The interactive figures of an experiment's page: its process, its perplexity beside the control arm, its warm-up."""

from __future__ import annotations

import html
import math
from typing import Any

from plasticity_env.cycle.page.story import (
    DONE,
    EDITS,
    evaluations_of,
    finite,
    last_step,
    moment_name,
    moments_of,
    phase_name,
    smooth,
    stages_of,
    unit_name,
    units_of,
)
from plasticity_env.cycle.record import RunRecord
from plasticity_env.cycle.run_rows import CONTROL, EXPERIMENT, EvaluationRow, StepRow
from plasticity_env.plots.html import Figure
from plasticity_env.plots.plotly_parts import band, panel_title, scale, upright

Trace = dict[str, Any]

# Names of colours in the page's style sheet.
ARM_COLOURS = {EXPERIMENT: "var:experiment", CONTROL: "var:control"}
EDIT_COLOURS = {edit: f"var:{edit}" for edit in EDITS}
EDIT_MARKS = {"prune": "triangle-down", "revive": "diamond", "grow": "triangle-up"}
EDIT_SIZES = {"prune": 14, "revive": 8, "grow": 11}  # several at one moment stay apart
PHASE_MARKS = {
    "pruning": "triangle-down",
    "measure": "circle-open",
    "growth": "triangle-up",
    "fine_tuning": "circle",
    "evaluation": "square",
}
BANDS = {"warmup": "var:warm", "fine_tuning": "var:tune"}
_MOST_POINTS, _MOST_LINES = 1500, 60


def process(record: RunRecord) -> Figure | None:
    """Training loss, perplexity and active heads over the steps; None: nothing was measured."""
    if not record.steps and not record.evaluations:
        return None
    traces: list[Trace] = []
    for arm in (CONTROL, EXPERIMENT):
        traces += _loss(arm, [row for row in record.steps if row.arm == arm])
        rows = evaluations_of(record, arm)
        if rows:
            traces.append(_evaluations(arm, rows, [row.step for row in rows], "y2"))
    heads, counts = _active_heads(record)
    traces += heads
    shapes, labels = _phase_bands(record)
    stable = record.stabilisation.stabilised_at if record.stabilisation else None
    if stable is not None:
        shapes.append(upright(stable, "var:ink", "dash", name="warm-up is stable"))
    ppl = [row.ppl for arm in ARM_COLOURS for row in evaluations_of(record, arm)]
    layout = {
        "height": 620,
        "margin": {"l": 46, "r": 12, "t": 26, "b": 42},
        "showlegend": False,
        "hovermode": "closest",
        "xaxis": {"title": {"text": "optimizer steps", "standoff": 6}, "anchor": "y3", "nticks": 7, "zeroline": False}
        | {"range": [-0.01 * last_step(record), 1.015 * max(1, last_step(record))]},
        "yaxis": {"domain": [0.66, 0.96], "nticks": 5, "tickformat": "~g"},
        "yaxis2": {"domain": [0.31, 0.58], "nticks": 5, **scale(ppl)},
        "yaxis3": {"domain": [0.0, 0.23], "nticks": 5, "tickformat": "d", **_room(counts)},
        "shapes": shapes,
        "annotations": [
            *labels,
            panel_title("training loss (nats per token)", 0.96),
            panel_title("perplexity on held-out text", 0.58),
            panel_title(f"active {units_of(record)}", 0.23),
        ],
    }
    return traces, layout


def comparison(record: RunRecord) -> Figure | None:
    """Perplexity, sparsity and FLOPs after every phase beside the control arm; None: nothing was measured."""
    mine = stages_of(record)
    if not mine:
        return None
    places = {_key(row): index for index, row in enumerate(mine)}
    traces: list[Trace] = []
    control = [row for row in evaluations_of(record, CONTROL) if _key(row) in places]
    for arm, rows in ((CONTROL, control), (EXPERIMENT, mine)):
        at = [places[_key(row)] for row in rows]
        if rows:
            traces.append(_evaluations(arm, rows, at, "y"))
            traces.append(_shares(arm, rows, at, [row.sparsity for row in rows], "y2", "sparsity"))
            traces.append(_shares(arm, rows, at, [row.flops_kept for row in rows], "y3", "FLOPs kept"))
    shapes, labels = cycle_bands(mine)
    kept = [row.flops_kept for row in mine if math.isfinite(row.flops_kept)]
    layout = {
        "height": 560,
        "margin": {"l": 50, "r": 12, "t": 26, "b": 14},
        "showlegend": False,
        "hovermode": "closest",
        "xaxis": {"anchor": "y3", "showticklabels": False, "range": [-0.6, len(mine) - 0.4], "zeroline": False}
        | {"showgrid": False},
        "yaxis": {"domain": [0.56, 0.95], "nticks": 6, **scale([row.ppl for row in (*mine, *control)])},
        "yaxis2": {"domain": [0.28, 0.47], "tickformat": ".0%", "rangemode": "tozero", "nticks": 4},
        "yaxis3": {"domain": [0.0, 0.19], "tickformat": ".0%", "nticks": 4}
        | {"range": [min([*kept, 0.9]) - 0.05, 1.04], "autorange": False},
        "shapes": shapes,
        "annotations": [
            *labels,
            panel_title("perplexity after each phase", 0.95),
            panel_title(f"sparsity (share of {units_of(record)} pruned)", 0.47),
            panel_title("FLOPs kept (share of the dense model)", 0.19),
        ],
    }
    return traces, layout


def warmup(record: RunRecord) -> Figure | None:
    """The loss of the warm-up with the decision to end it; None: there was none."""
    found = record.stabilisation
    losses = found.losses if found else [r.loss for r in record.steps if r.phase == "warmup" and r.arm == EXPERIMENT]
    if not losses:
        return None
    steps = list(range(1, len(losses) + 1))
    held = finite(losses)
    traces = [
        {"type": "scatter", "x": steps, "y": held, "mode": "lines+markers", "opacity": 0.55, "name": "loss"}
        | {"line": {"color": "var:experiment", "width": 1.2}, "marker": {"size": 4}}
        | {"hovertemplate": "step %{x}: loss %{y:.4f}<extra></extra>"}
    ]
    shapes: list[dict[str, Any]] = []
    labels: list[dict[str, Any]] = []
    if found and found.smoothed:
        whole = len(found.smoothed) * found.window <= len(losses) + found.window and len(found.smoothed) < len(losses)
        ends = [(at + 1) * found.window if whole else at + 1 for at in range(len(found.smoothed))]
        traces.append(
            {"type": "scatter", "x": ends, "y": finite(found.smoothed), "mode": "lines+markers", "name": "mean"}
            | {"line": {"color": "var:ink", "width": 2, "shape": "linear"}, "marker": {"size": 6}}
            | {"hovertemplate": f"mean of {found.window} steps up to %{{x}}: %{{y:.4f}}<extra></extra>"}
        )
    if found and found.stabilised_at is not None:
        shapes.append(upright(found.stabilised_at, "var:grow", "dash"))
        right = found.stabilised_at > 0.6 * len(losses)
        labels.append(
            {"x": found.stabilised_at, "y": 1, "yref": "paper", "yanchor": "top", "showarrow": False}
            | {"xanchor": "right" if right else "left", "text": f" stable at step {found.stabilised_at} "}
            | {"font": {"color": "var:grow"}}
        )
    layout = {
        "height": 300,
        "margin": {"l": 50, "r": 12, "t": 8, "b": 44},
        "showlegend": False,
        "xaxis": {"title": {"text": "warm-up step", "standoff": 6}, "nticks": 7, "zeroline": False},
        "yaxis": {"title": {"text": "loss (nats per token)", "standoff": 6}, "nticks": 6},
        "shapes": shapes,
        "annotations": labels,
    }
    return traces, layout


def training_curve(record: RunRecord, name: str) -> Figure | None:
    """``grad_norm`` or ``learning_rate`` over the steps of both arms; None: not measured."""
    traces: list[Trace] = []
    for arm in (CONTROL, EXPERIMENT):
        rows = _thin([row for row in record.steps if row.arm == arm])
        values = finite(getattr(row, name) for row in rows)
        if any(value is not None for value in values):
            traces.append(
                {"type": "scatter", "x": [row.step for row in rows], "y": values, "mode": "lines", "name": arm}
                | {"line": {"color": ARM_COLOURS[arm], "width": 1.5, "dash": "dot" if arm == CONTROL else "solid"}}
                | {"hovertemplate": f"{arm}, step %{{x}}: %{{y:.3g}}<extra></extra>"}
            )
    layout = {
        "height": 230,
        "margin": {"l": 52, "r": 12, "t": 8, "b": 42},
        "showlegend": False,
        "xaxis": {"title": {"text": "optimizer steps", "standoff": 6}, "nticks": 5, "zeroline": False},
        "yaxis": {"nticks": 5, "exponentformat": "e", "rangemode": "tozero"},
    }
    return (traces, layout) if traces else None


def _loss(arm: str, rows: list[StepRow]) -> list[Trace]:
    """A faint line of the losses and a strong one of their means."""
    if not rows:
        return []
    width = max(1, len(rows) // 40)
    means = smooth([row.loss for row in rows], width)
    kept = _thin(list(zip(rows, means, strict=True)))
    steps = [row.step for row, _ in kept]
    line = {"color": ARM_COLOURS[arm], "dash": "dot" if arm == CONTROL else "solid"}
    base = {"type": "scatter", "x": steps, "mode": "lines", "name": arm, "yaxis": "y"}
    said = "" if width == 1 else f", mean of {width} steps"
    traces: list[Trace] = [
        {**base, "y": finite(mean for _, mean in kept), "line": {**line, "width": 1.8}}
        | {"hovertemplate": f"{arm}, step %{{x}}: loss %{{y:.4f}}{said}<extra></extra>"}
    ]
    if width > 1 and arm == EXPERIMENT:
        raw = finite(row.loss for row, _ in kept)
        traces.insert(0, {**base, "y": raw, "line": {**line, "width": 0.8}, "opacity": 0.4, "hoverinfo": "skip"})
    return traces


def _evaluations(arm: str, rows: list[EvaluationRow], at: list[int], axis: str) -> Trace:
    said = [moment_name(row.cycle, row.phase) for row in rows]
    marks = [PHASE_MARKS.get(row.phase, "circle") if arm == EXPERIMENT else "circle" for row in rows]
    return {
        "type": "scatter",
        "x": at,
        "y": [value if value and value > 0 else None for value in finite(row.ppl for row in rows)],
        "text": said,
        "yaxis": axis,
        "name": arm,
        "mode": "lines+markers",
        "line": {"color": ARM_COLOURS[arm], "width": 1.8, "dash": "dot" if arm == CONTROL else "solid"},
        "marker": {"size": 9 if arm == EXPERIMENT else 5, "symbol": marks, "color": ARM_COLOURS[arm]},
        "hovertemplate": f"{arm} after %{{text}}: perplexity %{{y:.4g}}<extra></extra>",
    }


def _shares(arm: str, rows: list[EvaluationRow], at: list[int], values: list[float], axis: str, name: str) -> Trace:
    return {
        "type": "scatter",
        "x": at,
        "y": finite(values),
        "text": [moment_name(row.cycle, row.phase) for row in rows],
        "yaxis": axis,
        "name": arm,
        "mode": "lines",
        "line": {"color": ARM_COLOURS[arm], "width": 1.8, "shape": "hvh", "dash": "dot" if arm == CONTROL else "solid"},
        "hovertemplate": f"{arm} after %{{text}}: {name} %{{y:.1%}}<extra></extra>",
    }


def _active_heads(record: RunRecord) -> tuple[list[Trace], list[int]]:
    """The number of active heads over the steps, its changes marked, and all its values."""
    moments = moments_of(record)
    if not moments:
        return [], []
    end = last_step(record)
    counts = [moment.active for moment in moments]
    line: Trace = {"type": "scatter", "x": [*(moment.step for moment in moments), end], "y": [*counts, counts[-1]]}
    line |= {"yaxis": "y3", "mode": "lines", "name": f"active {units_of(record)}", "hoverinfo": "skip"}
    line["line"] = {"color": ARM_COLOURS[EXPERIMENT], "width": 1.8, "shape": "hv"}
    traces = [line]
    for edit in EDITS:
        held = [(moment, [e for e in moment.edits if e.edit == edit]) for moment in moments]
        held = [(moment, edits) for moment, edits in held if edits]
        if held:
            said = []
            for moment, edits in held:
                names = [unit_name(record, e.layer, e.head) for e in edits]
                more = f" and {len(names) - 12} more" if len(names) > 12 else ""
                where = html.escape(moment_name(moment.cycle, moment.phase))
                said.append(f"{where}: {len(edits)} {DONE[edit]}<br>{', '.join(names[:12])}{more}")
            traces.append(
                {"type": "scatter", "x": [moment.step for moment, _ in held], "yaxis": "y3", "mode": "markers"}
                | {"y": [moment.active for moment, _ in held], "text": said, "name": DONE[edit]}
                | {"marker": {"symbol": EDIT_MARKS[edit], "size": EDIT_SIZES[edit], "color": EDIT_COLOURS[edit]}}
                | {"hovertemplate": "%{text}<extra></extra>"}
            )
    return traces, counts


def _room(counts: list[int]) -> dict[str, Any]:
    if not counts:
        return {}
    low, high = min(counts), max(counts)
    margin = max(0.6, 0.15 * (high - low))
    return {"range": [low - margin, high + margin], "autorange": False, **({"dtick": 1} if high - low < 4 else {})}


def _phase_bands(record: RunRecord) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Shades of the phases that took steps, lines where heads were edited, and the names of the cycles above."""
    spans: dict[tuple[int, str], tuple[int, int]] = {}
    for row in record.phases:
        if row.last_step > row.first_step:
            spans[row.cycle, row.phase] = row.first_step, row.last_step
    for step in record.steps:  # a phase that is not over yet
        key = step.cycle, step.phase
        if step.arm == EXPERIMENT and key not in {(row.cycle, row.phase) for row in record.phases[-40:]}:
            low, high = spans.get(key, (step.step - 1, step.step))
            spans[key] = min(low, step.step - 1), max(high, step.step)
    shapes = [
        band(low, high, BANDS.get(phase, "var:other"), phase_name(phase)) for (_, phase), (low, high) in spans.items()
    ]
    edits = sorted({event.step for event in record.events})
    if len(edits) <= _MOST_LINES:
        shapes += [upright(step, "var:soft", "solid", 0.8) for step in edits]
    reach: dict[int, tuple[int, int]] = {}
    for (cycle, _), (low, high) in spans.items():
        former = reach.get(cycle, (low, high))
        reach[cycle] = min(former[0], low), max(former[1], high)
    return shapes, _cycle_names({cycle: (low + high) / 2 for cycle, (low, high) in reach.items()}, "warm-up")


def cycle_bands(rows: list[EvaluationRow]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Every other cycle shaded, where the horizontal axis counts evaluations."""
    reach: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        reach.setdefault(row.cycle, []).append(index)
    shapes = [band(min(at) - 0.5, max(at) + 0.5, "var:other") for cycle, at in reach.items() if cycle % 2]
    return shapes, _cycle_names({cycle: (min(at) + max(at)) / 2 for cycle, at in reach.items()}, "start")


def _cycle_names(middles: dict[int, float], before: str) -> list[dict[str, Any]]:
    cycles = [cycle for cycle in middles if cycle]
    every = max(1, math.ceil(len(cycles) / 12))
    labels = []
    for cycle, middle in middles.items():
        if cycle and (cycle - 1) % every:
            continue
        text = before if not cycle else (f"cycle {cycle}" if len(cycles) <= 3 else str(cycle))
        place = {"x": middle, "y": 1, "yref": "paper", "yanchor": "bottom", "showarrow": False}
        labels.append({"text": text, "font": {"size": 11, "color": "var:soft"}, **place})
    return labels


def _key(row: EvaluationRow) -> tuple[int, str, int]:
    return row.cycle, row.phase, row.step


def _thin(rows: list[Any]) -> list[Any]:
    """At most ``_MOST_POINTS`` of the rows, evenly, the last one included."""
    every = math.ceil(len(rows) / _MOST_POINTS)
    return rows if every <= 1 else [*rows[:-1:every], rows[-1]]
