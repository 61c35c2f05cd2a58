"""Figures that only pictures show: the distance from the control arm, each phase's effect, improvement over cycles."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from plasticity_env.cycle.page.figures import ARM_COLOURS, EDIT_COLOURS, EDIT_MARKS, comparison, cycle_bands
from plasticity_env.cycle.page.story import (
    SHORT_PHASES,
    cycles_of,
    evaluations_of,
    finite,
    last_of,
    phase_name,
    reference,
    stages_of,
    units_of,
)
from plasticity_env.cycle.record import RunRecord
from plasticity_env.cycle.run_rows import CONTROL, EXPERIMENT, EvaluationRow
from plasticity_env.plots.html import Figure
from plasticity_env.plots.plotly_parts import panel_title, scale

WORSE, BETTER = EDIT_COLOURS["prune"], EDIT_COLOURS["grow"]
_NO_CONTROL = " (no control arm)"


def multi_cycle(record: RunRecord) -> Figure | None:
    """The page's comparison with one more panel: perplexity above or below the control arm's, phase by phase."""
    found = comparison(record)
    if found is None:
        return None
    traces, layout = found
    mine = stages_of(record)
    for part in [value for name, value in layout.items() if name.startswith("yaxis")]:
        part["domain"] = [0.2 + 0.8 * end for end in part["domain"]]
    for note in layout["annotations"]:
        note["y"] = 0.2 + 0.8 * note["y"]
    gaps = [_gap(row, reference(record, row)) for row in mine]
    traces.append(_bars(list(range(len(mine))), gaps, "y4"))
    title = "perplexity above (+) or below (-) the control arm's" + ("" if record.has_control else _NO_CONTROL)
    layout["annotations"].append(panel_title(title, 0.14))
    layout["yaxis4"] = {"domain": [0, 0.14], "tickformat": "+.0%", "nticks": 4, "zeroline": True}
    layout["xaxis"] |= _stage_ticks(mine)
    layout["height"] = 700
    return traces, layout


def before_and_after(record: RunRecord) -> Figure | None:
    """Perplexity before (ring) and after (dot) each phase that was evaluated; None: fewer than two evaluations.

    An evaluation that repeats the phase before it is left out.
    """
    pairs = [(a, b) for a, b in pairwise(stages_of(record)) if not (b.phase == "evaluation" and b.step == a.step)]
    if not pairs:
        return None
    rows = [after for _, after in pairs]
    shapes, labels = cycle_bands(rows)
    traces: list[dict[str, Any]] = []
    for colour, worse in ((WORSE, True), (BETTER, False)):
        held = [(at, a.ppl, b.ppl) for at, (a, b) in enumerate(pairs) if (b.ppl > a.ppl) == worse]
        held = [(at, a, b) for at, a, b in held if math.isfinite(a) and math.isfinite(b)]
        mark = {"type": "scatter", "x": [at for at, _, _ in held], "mode": "markers"}
        traces += [
            {"type": "scatter", "x": [x for at, _, _ in held for x in (at, at, None)], "mode": "lines"}
            | {"y": [y for _, a, b in held for y in (a, b, None)], "line": {"color": colour, "width": 2.4}},
            {**mark, "y": [a for _, a, _ in held], "marker": {"size": 8, "symbol": "circle-open", "color": colour}},
            {**mark, "y": [b for _, _, b in held], "marker": {"size": 8, "color": colour}, "mode": "markers+text"}
            | {"text": [f"{b:.4g}" for _, _, b in held], "textposition": f"{'top' if worse else 'bottom'} center"},
        ]
    others = [(at, other.ppl) for at, row in enumerate(rows) if (other := reference(record, row)) is not None]
    traces.append(
        {"type": "scatter", "x": [x for at, _ in others for x in (at - 0.3, at + 0.3, None)], "mode": "lines"}
        | {"y": finite(y for _, ppl in others for y in (ppl, ppl, None)), "name": "control arm"}
        | {"line": {"color": ARM_COLOURS[CONTROL], "width": 1.8, "dash": "dot"}}
    )
    layout = {
        "height": 400,
        "xaxis": {"range": [-0.6, len(rows) - 0.4], **_stage_ticks(rows)},
        "yaxis": {"domain": [0, 0.94], "nticks": 6, **scale([row.ppl for pair in pairs for row in pair])},
        "shapes": shapes,
        "annotations": labels,
    }
    return traces, layout


def improvement(record: RunRecord) -> Figure | None:
    """Perplexity pruned, grown and trained, its distance from the control arm and its cost, cycle by cycle.

    None: no cycle was trained and evaluated.
    """
    mine = evaluations_of(record, EXPERIMENT)
    done = {cycle: last_of(mine, cycle, "fine_tuning", "evaluation") for cycle in cycles_of(record)}
    ends = {cycle: row for cycle, row in done.items() if row is not None}
    if not ends:
        return None
    control = {cycle: reference(record, row) for cycle, row in ends.items()}
    pruned, grown = ({cycle: last_of(mine, cycle, phase) for cycle in ends} for phase in ("pruning", "growth"))
    gaps = [_gap(row, control[cycle]) for cycle, row in ends.items()]
    traces = [
        _line("pruned", pruned, "ppl", WORSE, symbol=EDIT_MARKS["prune"]),
        _line("grown", grown, "ppl", BETTER, symbol=EDIT_MARKS["grow"]),
        _line("trained", ends, "ppl", ARM_COLOURS[EXPERIMENT]),
        _line("control arm", control, "ppl", ARM_COLOURS[CONTROL], dash="dot"),
        _bars(list(ends), gaps, "y2", labels=len(gaps) <= 8),
        _line("FLOPs kept", ends, "flops_kept", "#A6761D", "y3", symbol="square"),
        _line(f"{units_of(record)} active", ends, "heads_kept", "#56B4E9", "y3"),
    ]
    ppl = [row.ppl for rows in (pruned, grown, ends, control) for row in rows.values() if row]
    numbers = list(ends)[:: max(1, -(-len(ends) // 10))]
    titles = ("perplexity", "trained, against the control arm" + ("" if any(control.values()) else _NO_CONTROL), "cost")
    layout = {
        "height": 560,
        "xaxis": {"title": {"text": "cycle"}, "range": [min(ends) - 0.6, max(ends) + 0.6]}
        | {"tickvals": numbers, "ticktext": [str(number) for number in numbers]},
        "yaxis": {"domain": [0.56, 0.95], "nticks": 6, **scale(ppl)},
        "yaxis2": {"domain": [0.28, 0.47], "tickformat": "+.0%", "nticks": 4, "zeroline": True},
        "yaxis3": {"domain": [0.0, 0.19], "tickformat": ".0%", "nticks": 4, **_room(list(ends.values()))},
        "annotations": [panel_title(title, top) for title, top in zip(titles, (0.95, 0.47, 0.19), strict=True)],
    }
    return [trace for trace in traces if trace["x"]], layout


def _line(
    name: str,
    rows: dict[int, Any],
    value: str,
    colour: str,
    axis: str = "y",
    *,
    symbol: str = "circle",
    dash: str = "solid",
) -> dict[str, Any]:
    """A figure of each cycle's evaluation, for those that have one."""
    held = {cycle: row for cycle, row in rows.items() if row is not None}
    return {
        "type": "scatter",
        "x": list(held),
        "y": finite(getattr(row, value) for row in held.values()),
        "name": name,
        "yaxis": axis,
        "mode": "lines+markers",
        "line": {"color": colour, "width": 1.8, "dash": dash},
        "marker": {"size": 8, "symbol": symbol, "color": colour},
    }


def _bars(x: list[int], gaps: list[float], axis: str, labels: bool = False) -> dict[str, Any]:
    bars: dict[str, Any] = {"type": "bar", "x": x, "y": finite(gaps), "yaxis": axis}
    bars["marker"] = {"color": [WORSE if gap > 0 else BETTER for gap in gaps]}
    return bars | ({"text": [f"{gap:+.1%}" if math.isfinite(gap) else "" for gap in gaps]} if labels else {})


def _room(rows: list[EvaluationRow]) -> dict[str, Any]:
    """A range of the costs that is wide enough for whole percents to differ."""
    kept = [value for row in rows for value in (row.flops_kept, row.heads_kept) if math.isfinite(value)]
    return {"range": [min(kept) - 0.02, max(kept) + 0.02], "autorange": False} if kept else {}


def _gap(row: EvaluationRow, other: EvaluationRow | None) -> float:
    return row.ppl / other.ppl - 1 if other and other.ppl > 0 else math.nan


def _stage_ticks(rows: list[EvaluationRow]) -> dict[str, Any]:
    """Names of the stages below an axis that counts evaluations, at most about forty."""
    at = range(0, len(rows), max(1, -(-len(rows) // 40)))
    short = [SHORT_PHASES.get(row.phase, phase_name(row.phase)) for row in rows]
    names = [f"{rows[i].cycle} {short[i]}" if rows[i].cycle else phase_name(rows[i].phase) for i in at]
    return {"tickvals": list(at), "ticktext": names}
