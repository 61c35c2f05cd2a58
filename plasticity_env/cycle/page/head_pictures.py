"""Pictures of the heads of a run: what was measured of each, and what was decided."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from plasticity_env.cycle.page.story import (
    DONE,
    EDITS,
    SIGNAL_NAMES,
    Moment,
    columns_of,
    cycles_of,
    grid_of,
    grids_of,
    headline,
    heads_of,
    heavy_tailed,
    moment_name,
    moments_of,
    phase_name,
    units_of,
)
from plasticity_env.cycle.record import RunRecord
from plasticity_env.cycle.run_rows import SignalsRow
from plasticity_env.plots.charts import blank_figure, fitted, put_title, save_png
from plasticity_env.plots.head_panels import DECISIONS, decision_legend, draw_decisions, small_map
from plasticity_env.plots.visualize import visualize_head_entropy, visualize_head_gradients

T = TypeVar("T")
HEAT_SIGNALS = ("entropy", "gradient", "activation", "fisher")
_MOST_COLUMNS, _MOST_MOMENTS, _MOST_STAGES = 6, 6, 20
_STATES = np.array([1, 0, 2, 3, 4])  # of a story's moments, as places in DECISIONS


def head_pictures(record: RunRecord, dashboards: Path, pictures: Path) -> list[Path]:
    """Draw the heads: all signals over the cycles, all stages, and each cycle's entropy, gradient and decisions.

    Blocks of MLP neurons, where they are units too, stand beside the heads, but for entropy and gradient by themselves.

    Args:
        record: Record of the run.
        dashboards: Folder that gets ``attention_heatmaps.png``.
        pictures: Gets ``active_heads_by_stage.png``, ``entropy_cycle_1.png``, ``gradient_cycle_1.png``,
            ``decisions_cycle_1.png``, ...

    Returns:
        The pictures that could be drawn.
    """
    moments, measured = moments_of(record), first_of_cycles(record.signals)
    final = [row for row in record.signals[-1:] if row not in measured]
    drawn = [signals_png(record, measured, dashboards / "attention_heatmaps.png", final)]
    if len(moments) > 1:
        heading, path = headline(record, f"active {units_of(record)} by stage"), pictures / "active_heads_by_stage.png"
        drawn.append(states_png(_evenly(moments, _MOST_STAGES), heading, path, columns_of(record)))
    drawings: dict[str, Callable[..., Any]] = {
        "entropy": visualize_head_entropy,
        "gradient": partial(visualize_head_gradients, kind="gate"),
    }
    for row in measured:
        for name, draw in drawings.items():
            grid, active = grid_of(row.signals.get(name, [[]])), np.array(row.active, dtype=bool)
            if grid.shape == active.shape and np.isfinite(grid).any():
                heads = heads_of(record, active.shape[1])
                path = pictures / f"{name}_cycle_{row.cycle}.png"
                title = f"{SIGNAL_NAMES[name]}: cycle {row.cycle}, before pruning"
                draw(grid[:, :heads], active=active[:, :heads], title=title, save_path=path)
                drawn.append(path)
    for cycle in cycles_of(record):
        own = [moment for moment in moments if moment.cycle == cycle]
        if own:
            path = pictures / f"decisions_cycle_{cycle}.png"
            drawn.append(states_png(_evenly(own, _MOST_MOMENTS), f"cycle {cycle}: decisions", path, columns_of(record)))
    return [path for path in drawn if path is not None]


def signals_png(
    record: RunRecord, rows: Sequence[SignalsRow], path: Path, final: Sequence[SignalsRow] = ()
) -> Path | None:
    """Draw entropy, gradient, activity and importance of every head, a column a cycle, pruned heads crossed out.

    Args:
        record: Record of the run.
        rows: What the pruning of each cycle found.
        path: File of the picture.
        final: What was measured last, in a column of its own: the heads as the run leaves them.
    """
    names = [name for name in HEAT_SIGNALS if any(name in row.signals for row in (*rows, *final))]
    if not names:
        return None
    found = _evenly(rows, _MOST_COLUMNS - len(final))
    rows = [*found, *final]
    figure = blank_figure(1.6 + 2.1 * len(rows) + 0.6 * (len(rows) < 3), 0.9 + 2.0 * len(names))
    panels = figure.subplots(len(names), len(rows), squeeze=False)
    moments = [f"cycle {row.cycle}" if row.cycle else phase_name(row.phase) for row in found]
    for panel, name in zip(panels[0], [*moments, *("at the end" for _ in final)], strict=True):
        panel.set_title(name, fontsize=9)
    for line, name in zip(panels, names, strict=True):
        grids = grids_of(record, rows, name)
        log = heavy_tailed(grids)
        image: Any = None
        for panel, row, grid in zip(line, rows, grids, strict=True):
            image = small_map(panel, grid, np.array(row.active, dtype=bool), grids, log)
            if name not in row.signals:
                panel.text(0.5, 0.5, "not measured", transform=panel.transAxes, ha="center", va="center", fontsize=8)
        line[0].set_ylabel(f"{name}\nlayer", fontsize=8)
        bar = figure.colorbar(image, ax=list(line), shrink=0.85, pad=0.01, aspect=14)
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
        bar.ax.tick_params(labelsize=7)
        bar.ax.minorticks_off()
    for panel in panels[-1]:
        panel.set_xlabel(columns_of(record), fontsize=8)
    units = units_of(record)
    said = headline(record, f"{units} as pruning found them" if len(found) > 1 else units)
    said += " and as they are at the end" if final else ""
    put_title(figure, said)
    save_png(figure, path)
    return path


def states_png(moments: Sequence[Moment], heading: str, path: Path, across: str = "head") -> Path:
    """Draw how the heads stood at moments, a panel a moment; ``across`` says what the columns are."""
    layers, heads = moments[0].states.shape
    columns = min(5, len(moments))
    lines = -(-len(moments) // columns)
    width = max(4.4, 2.1 * columns + 0.4)
    figure = blank_figure(width, (0.95 + min(2.6, 0.35 + 0.3 * layers)) * lines + 0.9)
    panels = figure.subplots(lines, columns, squeeze=False)
    for panel, moment in zip(panels.flat, moments, strict=False):
        draw_decisions(panel, _STATES[moment.states])
        counts = {edit: sum(event.edit == edit for event in moment.edits) for edit in EDITS}
        said = "".join(f"{count} {DONE[edit]}, " for edit, count in counts.items() if count)
        name = f"{moment_name(moment.cycle, moment.phase)}, step {moment.step}"
        words = f"{name}\n{said}{moment.active} of {layers * heads} active"
        panel.set_title(fitted(words, width / columns - 0.35, 7.5), fontsize=7.5, loc="left")
    for panel in panels.flat[len(moments) :]:
        panel.set_axis_off()
    for panel in panels[:, 0]:
        panel.set_ylabel("layer", fontsize=8)
    for panel in panels[-1]:
        panel.set_xlabel(across, fontsize=8)
    handles = decision_legend(DECISIONS)
    place: dict[str, Any] = {"loc": "outside lower center", "ncols": 5 if columns > 3 else 3, "frameon": False}
    figure.legend(handles=handles, fontsize=8, **place)
    put_title(figure, heading)
    save_png(figure, path)
    return path


def first_of_cycles(rows: Sequence[SignalsRow]) -> list[SignalsRow]:
    """The first measurement of each cycle: what its pruning was decided on."""
    firsts: dict[int, SignalsRow] = {}
    for row in rows:
        firsts.setdefault(row.cycle, row)
    held = [row for cycle, row in firsts.items() if cycle] or list(firsts.values())
    shape = np.array(held[0].active).shape if held else ()
    return [row for row in held if np.array(row.active).shape == shape]


def _evenly(rows: Sequence[T], most: int) -> list[T]:
    """At most so many of the rows, evenly, the first and the last among them."""
    return list(rows) if len(rows) <= most else [rows[round(at)] for at in np.linspace(0, len(rows) - 1, most)]
