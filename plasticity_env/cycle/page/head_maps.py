"""The heads on an experiment's page: maps of what was measured, moment by moment, and what was decided about each."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from plasticity_env.cycle.page.figures import EDIT_COLOURS
from plasticity_env.cycle.page.story import (
    DONE,
    EDITS,
    SHORT_PHASES,
    SIGNAL_NAMES,
    Moment,
    columns_of,
    grid_of,
    grids_of,
    heads_of,
    heavy_tailed,
    moment_name,
    moments_of,
    short,
    units_of,
)
from plasticity_env.cycle.record import RunRecord
from plasticity_env.cycle.run_rows import SignalsRow
from plasticity_env.plots.html import Figure
from plasticity_env.plots.plotly_parts import head_axes, panel_title

STATE_NAMES = ("pruned", "active", "pruned now", "revived now", "grown now")
STATE_COLOURS = ("var:off", "var:on", "var:prune", "var:revive", "var:grow")


def signal_maps(record: RunRecord) -> tuple[list[tuple[str, Figure]], list[dict[str, Any]]]:
    """Maps of the heads by signal, and what each shows at every moment that was measured.

    Args:
        record: Record of the run.

    Returns:
        Titles and figures in the order of ``SIGNAL_NAMES``, signals of other names after them; and a row a moment:
        ``label`` and, by the figure's position, ``maps`` ({"z", "values"}), ``pruned`` and ``fresh`` (places of marks).
    """
    held = [name for name in SIGNAL_NAMES if any(name in row.signals for row in record.signals)]
    held += sorted({name for row in record.signals for name in row.signals} - set(SIGNAL_NAMES))
    if not record.signals or not held:
        return [], []
    shape = np.array(record.signals[0].active).shape
    rows = [row for row in record.signals if np.array(row.active).shape == shape]
    maps, shown = [], []
    for name in held:
        grids = grids_of(record, rows, name)
        log = heavy_tailed(grids)
        maps.append((SIGNAL_NAMES.get(name, name), _map(grids, log, columns_of(record))))
        shown.append([(_shown(grid, log), grid) for grid in grids])
    moments = []
    for index, row in enumerate(rows):
        pruned, fresh = _marks(row)
        maps_now = [
            {"z": _cells(z[index][0]), "values": [[short(float(value)) for value in line] for line in z[index][1]]}
            for z in shown
        ]
        label = f"{moment_name(row.cycle, row.phase)}, step {row.step}"
        moments.append({"label": label, "maps": maps_now, "pruned": pruned, "fresh": fresh})
    return maps, moments


def decisions(record: RunRecord) -> Figure | None:
    """How many heads each decision edited, and every head's state after it; None: nothing was decided."""
    moments = moments_of(record)
    if len(moments) < 2:
        return None
    labels = [f"{moment_name(moment.cycle, moment.phase)}, step {moment.step}" for moment in moments]
    at = list(range(len(moments)))
    traces: list[dict[str, Any]] = []
    for edit in EDITS:
        counts = [sum(event.edit == edit for event in moment.edits) for moment in moments]
        if any(counts):
            sign = -1 if edit == "prune" else 1
            traces.append(
                {"type": "bar", "x": at, "y": [sign * count or None for count in counts], "name": DONE[edit]}
                | {
                    "marker": {"color": EDIT_COLOURS[edit]},
                    "customdata": counts,
                    "text": labels,
                    "textposition": "none",
                }
                | {"hovertemplate": f"%{{text}}: %{{customdata}} {DONE[edit]}<extra></extra>"}
            )
    (layers, heads), units = moments[0].states.shape, units_of(record)
    states = np.stack([moment.states.reshape(-1) for moment in moments], axis=1)  # (L*H, moments)
    edges = np.repeat(np.arange(6) / 5, 2)[1:-1]
    said = [[f"{label}: {STATE_NAMES[state]}" for label, state in zip(labels, line, strict=True)] for line in states]
    traces.append(
        {"type": "heatmap", "x": at, "z": states.tolist(), "zmin": -0.5, "zmax": 4.5, "showscale": False, "yaxis": "y2"}
        | {"xgap": 1, "ygap": 0.5, "customdata": said}
        | {"text": [[name] * len(at) for name in _unit_names(layers, heads_of(record, heads), heads)]}
        | {"colorscale": [[float(edge), STATE_COLOURS[index // 2]] for index, edge in enumerate(edges)]}
        | {"hovertemplate": "%{text}<br>%{customdata}<extra></extra>"}
    )
    tall = max(120, min(13, max(5, 900 // (layers * heads))) * layers * heads)
    height = 210 + tall + 60
    top, low = 1 - 150 / (height - 76), tall / (height - 76)
    ticks = {"tickvals": at, "ticktext": _tick_names(moments)} if len(at) <= 14 else _cycle_ticks(moments)
    layout = {
        "height": height,
        "margin": {"l": 46, "r": 12, "t": 20, "b": 56},
        "showlegend": False,
        "barmode": "relative",
        "xaxis": {"anchor": "y2", "range": [-0.6, len(at) - 0.4], "showgrid": False, "zeroline": False, **ticks},
        "yaxis": {"domain": [top, 1], "nticks": 5, "tickformat": "d", "zeroline": True},
        "yaxis2": {"domain": [0, low], "autorange": "reversed", "showgrid": False, "zeroline": False}
        | {"tickvals": [layer * heads for layer in range(layers)], "ticktext": [str(layer) for layer in range(layers)]},
        "annotations": [
            panel_title(f"{units} pruned (down), brought back (up)", 1),
            panel_title(f"{units} by layer", low),
        ],
    }
    return traces, layout


def _unit_names(layers: int, heads: int, units: int) -> list[str]:
    kinds = [f"head {unit}" if unit < heads else f"MLP block {unit - heads}" for unit in range(units)]
    return [f"layer {layer}, {kind}" for layer in range(layers) for kind in kinds]


def _tick_names(moments: list[Moment]) -> list[str]:
    return [f"{m.cycle}<br>{SHORT_PHASES.get(m.phase, m.phase)}" if m.cycle else m.phase for m in moments]


def _cycle_ticks(moments: list[Moment]) -> dict[str, Any]:
    """The first moment of each cycle, of at most about twelve cycles."""
    firsts = {moment.cycle: at for at, moment in reversed(list(enumerate(moments))) if moment.cycle}
    cycles = sorted(firsts)[:: max(1, -(-len(firsts) // 12))]
    return {"tickvals": [firsts[cycle] for cycle in cycles], "ticktext": [f"cycle<br>{cycle}" for cycle in cycles]}


def _shown(grid: np.ndarray, log: bool) -> np.ndarray:
    return np.log10(np.where(grid > 0, grid, np.nan)) if log else grid


def _cells(grid: np.ndarray) -> list[list[float | None]]:
    return [[float(f"{value:.5g}") if math.isfinite(value) else None for value in line] for line in grid.tolist()]


def _map(grids: list[np.ndarray], log: bool, columns: str) -> Figure:
    """A map whose colours mean the same at every moment."""
    values = np.concatenate([_shown(grid, log).reshape(-1) for grid in grids])
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if log:
        low = max(low, high - 6)
    elif low >= 0:
        low = 0.0
    high = high if high > low else low + 1.0
    bar: dict[str, Any] = {"thickness": 9, "outlinewidth": 0, "xpad": 4, "nticks": 5, "tickformat": "~g"}
    if log:
        powers = list(range(math.ceil(low), math.floor(high) + 1))
        bar |= {"tickvals": powers, "ticktext": [f"1e{power}" for power in powers]}
    layers, heads = grids[0].shape
    heat = {"type": "heatmap", "z": [], "customdata": [], "zmin": low, "zmax": high, "xgap": 2, "ygap": 2}
    heat |= {"colorbar": bar, "hovertemplate": f"layer %{{y}}, {columns} %{{x}}: %{{customdata}}<extra></extra>"}
    mark = {"type": "scatter", "x": [], "y": [], "mode": "markers", "hoverinfo": "skip"}
    size = 9 if heads <= 8 else 7
    pruned = {"symbol": "x", "size": size, "color": "var:prune", "line": {"color": "var:card", "width": 1}}
    fresh = {"symbol": "circle", "size": size, "color": "var:grow", "line": {"color": "var:card", "width": 1}}
    layout = {
        "height": 100 + 24 * min(layers, 16),
        "margin": {"l": 36, "r": 4, "t": 6, "b": 38},
        "showlegend": False,
        **head_axes((layers, heads), columns=columns),
    }
    return [heat, {**mark, "marker": pruned}, {**mark, "marker": fresh}], layout


def _marks(row: SignalsRow) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Places of the pruned heads, and of those still warming up."""
    active = np.array(row.active, dtype=bool)
    gates = grid_of(row.gates) if np.array(row.gates).shape == active.shape else active.astype(float)
    pruned, fresh = np.argwhere(~active), np.argwhere(active & (gates < 1))
    return (
        {"x": pruned[:, 1].tolist(), "y": pruned[:, 0].tolist()},
        {"x": fresh[:, 1].tolist(), "y": fresh[:, 0].tolist()},
    )
