"""Pictures of single cycles: what was measured of every head, and what was decided."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from plasticity_env.cycle.page.page_charts import (
    colour_bar,
    draw_heads,
    first_of_cycles,
    shared_norm,
)
from plasticity_env.cycle.page.stage_charts import draw_states, state_legend
from plasticity_env.cycle.page.story import (
    DONE,
    EDITS,
    SIGNAL_NAMES,
    cycles_of,
    grid_of,
    moments_of,
    phase_name,
)
from plasticity_env.cycle.record import RunRecord
from plasticity_env.plots.charts import save_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIGNALS = ("entropy", "gradient")
_MOST_MOMENTS, _DPI = 6, 110


def cycle_pictures(record: RunRecord, folder: Path) -> list[Path]:
    """Draw each cycle's entropy, gradient and decisions on maps of the heads.

    Args:
        record: Of the run.
        folder: Gets ``entropy_cycle_1.png``, ``gradient_cycle_1.png``, ``decisions_cycle_1.png``, ...

    Returns:
        The pictures that could be drawn.
    """
    written = []
    for row in first_of_cycles(record.signals):
        for name in _SIGNALS:
            grid, active = grid_of(row.signals.get(name, [[]])), np.array(row.active, dtype=bool)
            if grid.shape == active.shape and np.isfinite(grid).any():
                path = folder / f"{name}_cycle_{row.cycle}.png"
                _signal_png(path, grid, active, SIGNAL_NAMES[name], row.cycle)
                written.append(path)
    for cycle in cycles_of(record):
        path = folder / f"decisions_cycle_{cycle}.png"
        if _decisions_png(record, cycle, path):
            written.append(path)
    return written


def _signal_png(path: Path, grid: np.ndarray, active: np.ndarray, name: str, cycle: int) -> None:
    layers, heads = grid.shape
    width, height = min(8.0, max(2.6, 0.55 * heads)), min(6.0, max(1.3, 0.42 * layers))
    figure = _fixed(width, height, left=0.6, right=0.95, bottom=0.55, top=0.6)
    panel = figure.subplots()
    norm = shared_norm([grid])
    colour_bar(figure, draw_heads(panel, grid, active, norm), panel)
    if grid.size <= 64:
        for (layer, head), value in np.ndenumerate(grid):
            if np.isfinite(value) and active[layer, head]:
                colour = "w" if norm(value) > 0.6 else "k"
                panel.text(head, layer, f"{value:.2g}", ha="center", va="center", fontsize=7, color=colour)
    panel.set_xlabel("head", fontsize=8)
    panel.set_ylabel("layer", fontsize=8)
    panel.set_title(f"{name}\ncycle {cycle}, before pruning (crossed: pruned)", fontsize=8.5, loc="left")
    save_png(figure, path)


def _decisions_png(record: RunRecord, cycle: int, path: Path) -> bool:
    """Draw how the heads stood after each group of edits of one cycle."""
    moments = [moment for moment in moments_of(record) if moment.cycle == cycle]
    if not moments:
        return False
    if len(moments) > _MOST_MOMENTS:
        moments = [moments[round(at)] for at in np.linspace(0, len(moments) - 1, _MOST_MOMENTS)]
    layers, heads = moments[0].states.shape
    side = max(1.9, min(5.0, 0.36 * heads))
    width, height = side * len(moments) + 0.4 * (len(moments) - 1), min(6.0, max(1.2, 0.36 * layers))
    figure = _fixed(max(4.4, width), height, left=0.5, right=0.2, bottom=0.95, top=0.85)
    panels = figure.subplots(1, len(moments), squeeze=False)[0]
    for panel, moment in zip(panels, moments, strict=True):
        draw_states(panel, moment.states)
        said = ", ".join(f"{n} {DONE[e]}" for e in EDITS if (n := sum(event.edit == e for event in moment.edits)))
        panel.set_title(f"{phase_name(moment.phase)}, step {moment.step}\n{said}", fontsize=8, loc="left")
        panel.set_xlabel("head", fontsize=8)
    panels[0].set_ylabel("layer", fontsize=8)
    figure.legend(handles=state_legend(), loc="lower center", ncols=3, fontsize=7, frameon=False)
    figure.suptitle(f"cycle {cycle}: decisions", x=0.02, ha="left", fontsize=10)
    save_png(figure, path)
    return True


def _fixed(width: float, height: float, *, left: float, right: float, bottom: float, top: float) -> Figure:
    """A figure whose panels fill ``width`` x ``height`` inches; fixed margins are laid out much faster than searched ones."""
    from matplotlib.figure import Figure

    whole = width + left + right, height + bottom + top
    figure = Figure(figsize=whole, dpi=_DPI)
    figure.subplots_adjust(left / whole[0], bottom / whole[1], 1 - right / whole[0], 1 - top / whole[1], wspace=0.25)
    return figure
