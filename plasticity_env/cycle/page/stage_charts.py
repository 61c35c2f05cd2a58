"""Pictures that compare the stages of a cycle: active heads, perplexity before and after, improvement over cycles."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plasticity_env.cycle.page.page_charts import (
    ARM_COLOURS,
    EDIT_COLOURS,
    dress,
    headline,
    perplexity_axis,
)
from plasticity_env.cycle.page.story import (
    SHORT_PHASES,
    cycles_of,
    evaluations_of,
    last_of,
    moments_of,
    phase_name,
    reference,
    stages_of,
)
from plasticity_env.cycle.record import RunRecord
from plasticity_env.cycle.run_rows import CONTROL, EXPERIMENT, EvaluationRow
from plasticity_env.plots.charts import blank_figure, save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch

STATE_COLOURS = ("#DCDDDA", "#3B7FAE", EDIT_COLOURS["prune"], EDIT_COLOURS["revive"], EDIT_COLOURS["grow"])
STATE_NAMES = ("pruned before", "active", "pruned now", "revived now", "grown now")
_MOST_STAGES = 20


def draw_states(panel: Axes, states: np.ndarray) -> None:
    """Draw the (L, H) states of the heads as cells."""
    from matplotlib.colors import ListedColormap

    layers, heads = states.shape
    colours = ListedColormap(STATE_COLOURS)
    panel.pcolormesh(states, cmap=colours, vmin=-0.5, vmax=4.5, edgecolors="white", linewidth=1.2)
    panel.invert_yaxis()
    for axis, count in ((panel.xaxis, heads), (panel.yaxis, layers)):
        every = range(0, count, max(1, -(-count // 6)))
        axis.set_ticks([at + 0.5 for at in every], [str(at) for at in every])
    panel.tick_params(labelsize=7, length=0)
    panel.spines[:].set_visible(False)


def state_legend() -> list[Patch]:
    """What the colours of the states mean."""
    from matplotlib.patches import Patch

    return [Patch(color=colour, label=name) for colour, name in zip(STATE_COLOURS, STATE_NAMES, strict=True)]


def active_heads_png(record: RunRecord, path: Path) -> bool:
    """Draw which heads are active at each stage: the start, and after every group of edits.

    Args:
        record: Of the run.
        path: The picture.

    Returns:
        Whether there was anything to draw.
    """
    moments = moments_of(record)
    if len(moments) < 2:
        return False
    if len(moments) > _MOST_STAGES:
        moments = [moments[round(at)] for at in np.linspace(0, len(moments) - 1, _MOST_STAGES)]
    layers, heads = moments[0].states.shape
    columns = min(5, len(moments))
    rows = -(-len(moments) // columns)
    figure = blank_figure(2.1 * columns + 0.4, (0.75 + min(2.6, 0.35 + 0.3 * layers)) * rows + 0.9)
    panels = figure.subplots(rows, columns, squeeze=False)
    for panel, moment in zip(panels.flat, moments, strict=False):
        draw_states(panel, moment.states)
        name = f"cycle {moment.cycle}, {phase_name(moment.phase)}" if moment.cycle else phase_name(moment.phase)
        panel.set_title(f"{name}\n{moment.active} of {layers * heads} active", fontsize=8, loc="left")
    for panel in panels.flat[len(moments) :]:
        panel.set_axis_off()
    for panel in panels[:, 0]:
        panel.set_ylabel("layer", fontsize=8)
    figure.legend(
        handles=state_legend(), loc="outside lower center", ncols=5 if columns > 3 else 3, fontsize=8, frameon=False
    )
    headline(figure, record, "active heads by stage")
    save_png(figure, path)
    return True


def before_and_after_png(record: RunRecord, path: Path) -> bool:
    """Draw the perplexity before and after each phase that was evaluated: an arrow a phase, a panel a cycle.

    Args:
        record: Of the run.
        path: The picture.

    Returns:
        Whether there was anything to draw.
    """
    mine = stages_of(record)
    cycles = [0, *cycles_of(record)]
    if len(mine) < 2:
        return False
    if len(cycles) > 7:
        cycles = [0, *[cycles[round(at)] for at in np.linspace(1, len(cycles) - 1, 6)]]
    pairs = {cycle: _pairs(mine, cycle) for cycle in dict.fromkeys(cycles)}
    pairs = {cycle: held for cycle, held in pairs.items() if held}
    if not pairs:
        return False
    figure = blank_figure(max(6.0, 0.8 + 0.62 * sum(len(held) for held in pairs.values()) + 0.7 * len(pairs)), 4.6)
    widths = [len(held) + 0.6 for held in pairs.values()]
    panels = figure.subplots(1, len(pairs), sharey=True, squeeze=False, width_ratios=widths)[0]
    for panel, (cycle, held) in zip(panels, pairs.items(), strict=True):
        for at, (before, after) in enumerate(held):
            worse = after.ppl > before.ppl
            colour = EDIT_COLOURS["prune"] if worse else EDIT_COLOURS["grow"]
            if np.isfinite([before.ppl, after.ppl]).all():
                panel.plot([at, at], [before.ppl, after.ppl], color=colour, linewidth=2)
                panel.scatter([at], [before.ppl], facecolors="white", edgecolors=colour, s=30, zorder=3)
                panel.scatter([at], [after.ppl], color=colour, s=34, zorder=4)
                text: dict[str, Any] = {
                    "xytext": (0, 6 if worse else -6),
                    "textcoords": "offset points",
                    "ha": "center",
                    "fontsize": 7,
                    "zorder": 6,
                }
                text["bbox"] = {"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.6}
                panel.annotate(f"{after.ppl:.4g}", (at, after.ppl), va="bottom" if worse else "top", **text)
            control = reference(record, after)
            if control is not None and np.isfinite(control.ppl):
                panel.plot([at - 0.3, at + 0.3], [control.ppl] * 2, ":", color=ARM_COLOURS[CONTROL], linewidth=1.6)
        names = [SHORT_PHASES.get(after.phase, phase_name(after.phase)) for _, after in held]
        panel.set_xticks(range(len(held)), names, rotation=40, ha="right", rotation_mode="anchor")
        panel.set_xlim(-0.6, len(held) - 0.4)
        panel.margins(y=0.12)
        dress(panel, f"cycle {cycle}" if cycle else "start")
    perplexity_axis(panels[0], [row for held in pairs.values() for pair in held for row in pair])
    panels[0].set_ylabel("perplexity", fontsize=9)
    headline(figure, record, "perplexity before (ring) and after (dot) each phase; dotted: control arm")
    save_png(figure, path)
    return True


def improvement_png(record: RunRecord, path: Path) -> bool:
    """Draw, cycle by cycle, the perplexity pruned, grown and trained, its distance from the control arm, and the cost.

    Args:
        record: Of the run.
        path: The picture.

    Returns:
        Whether there was anything to draw: at least one cycle that was trained and evaluated.
    """
    mine = evaluations_of(record, EXPERIMENT)
    done = [(cycle, last_of(mine, cycle, "fine_tuning", "evaluation")) for cycle in cycles_of(record)]
    ends = [(cycle, row) for cycle, row in done if row is not None]
    if not ends:
        return False
    cycles = [cycle for cycle, _ in ends]
    figure = blank_figure(11, 3.9)
    panels = figure.subplots(1, 3)
    lines = (("pruned", "pruning", "v", EDIT_COLOURS["prune"]), ("grown", "growth", "^", EDIT_COLOURS["grow"]))
    for name, phase, mark, colour in lines:
        held = [(cycle, last_of(mine, cycle, phase)) for cycle in cycles]
        points = [(cycle, row.ppl) for cycle, row in held if row is not None]
        if points:
            panels[0].plot(*zip(*points, strict=True), color=colour, marker=mark, label=name)
    panels[0].plot(cycles, [row.ppl for _, row in ends], color=ARM_COLOURS[EXPERIMENT], marker="o", label="trained")
    control = [(cycle, reference(record, row)) for cycle, row in ends]
    known = [(cycle, row) for cycle, row in control if row is not None]
    if known:
        ppl = [row.ppl for _, row in known]
        panels[0].plot([c for c, _ in known], ppl, ":", color=ARM_COLOURS[CONTROL], marker=".", label="control arm")
    perplexity_axis(panels[0], [row for row in mine if row.cycle in cycles] + [row for _, row in known])
    panels[0].legend(frameon=False, fontsize=8)
    gaps = {cycle: row.ppl / dict(known)[cycle].ppl - 1 for cycle, row in ends if cycle in dict(known)}
    colours = [EDIT_COLOURS["prune"] if gap > 0 else EDIT_COLOURS["grow"] for gap in gaps.values()]
    bars = panels[1].bar(list(gaps), np.nan_to_num(list(gaps.values())), color=colours, width=0.6)
    if len(gaps) <= 8:
        panels[1].bar_label(bars, [f"{gap:+.1%}" for gap in gaps.values()], fontsize=8, padding=2)
    panels[1].axhline(0, color="black", linewidth=0.7)
    panels[1].margins(y=0.15)
    panels[1].yaxis.set_major_formatter(lambda share, _: f"{100 * share:+.3g}%")
    if not gaps:
        panels[1].text(0.5, 0.5, "no control arm", transform=panels[1].transAxes, ha="center", color="#666d76")
    panels[2].plot(cycles, [row.flops_kept for _, row in ends], color="#A6761D", marker="s", label="FLOPs kept")
    panels[2].plot(cycles, [1 - row.sparsity for _, row in ends], color="#56B4E9", marker="o", label="heads active")
    panels[2].yaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g}%")
    panels[2].legend(frameon=False, fontsize=8)
    for panel, title in zip(panels, ("perplexity", "trained, against the control arm", "cost"), strict=True):
        dress(panel, title)
        panel.set_xlabel("cycle", fontsize=9)
        panel.set_xticks(cycles[:: max(1, -(-len(cycles) // 10))])
        panel.set_xlim(cycles[0] - 0.6, cycles[-1] + 0.6)
    headline(figure, record, "improvement over cycles")
    save_png(figure, path)
    return True


def _pairs(rows: list[EvaluationRow], cycle: int) -> list[tuple[EvaluationRow, EvaluationRow]]:
    """Evaluations of a cycle with those before them; one that repeats the phase before it is left out."""
    return [
        (a, b) for a, b in pairwise(rows) if b.cycle == cycle and not (b.phase == "evaluation" and b.step == a.step)
    ]
