"""The pictures of a run: its process, its cycles and its heads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plasticity_env.cycle.page.story import (
    DONE,
    EDITS,
    SHORT_PHASES,
    cycles_of,
    evaluations_of,
    finite,
    grid_of,
    heavy_tailed,
    last_step,
    log_ticks,
    moments_of,
    phase_name,
    reference,
    smooth,
    stages_of,
)
from plasticity_env.cycle.record import RunRecord
from plasticity_env.cycle.run_rows import CONTROL, EXPERIMENT, EvaluationRow, SignalsRow
from plasticity_env.plots.charts import blank_figure, save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

ARM_COLOURS = {EXPERIMENT: "#0072B2", CONTROL: "#8a6100"}
ARM_STYLES = {EXPERIMENT: "-", CONTROL: ":"}
EDIT_COLOURS = {"prune": "#C24A00", "revive": "#7A52B3", "grow": "#007A59"}
EDIT_MARKS = {"prune": "v", "revive": "D", "grow": "^"}
EDIT_SIZES = {"prune": 60, "revive": 18, "grow": 36}  # several at one moment stay apart
PHASE_MARKS = {"pruning": "v", "growth": "^", "evaluation": "s"}
BANDS = {"warmup": ("#E69F00", 0.14), "fine_tuning": ("#0072B2", 0.08)}
HEAT_SIGNALS = ("entropy", "gradient", "activation", "fisher")
_MOST_COLUMNS, _MOST_LINES = 6, 60


def complete_process_png(record: RunRecord, path: Path) -> bool:
    """Draw training loss, perplexity and active heads over the steps, with phases shaded and edits marked.

    Args:
        record: Of the run.
        path: The picture.

    Returns:
        Whether there was anything to draw.
    """
    if not record.steps and not record.evaluations:
        return False
    figure = blank_figure(11, 7.6)
    panels = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2.6, 1.9))
    for arm in (CONTROL, EXPERIMENT):
        rows = [row for row in record.steps if row.arm == arm]
        if rows:
            steps, losses = [row.step for row in rows], finite(row.loss for row in rows)
            width = max(1, len(rows) // 40)
            if width > 1 and arm == EXPERIMENT:
                panels[0].plot(steps, _gaps(losses), color=ARM_COLOURS[arm], linewidth=0.6, alpha=0.35)
            said = arm if width == 1 else f"{arm}, mean of {width} steps"
            panels[0].plot(steps, _gaps(smooth(losses, width)), ARM_STYLES[arm], color=ARM_COLOURS[arm], label=said)
        rows_of_arm = evaluations_of(record, arm)
        _draw_evaluations(panels[1], arm, rows_of_arm, [row.step for row in rows_of_arm])
    perplexity_axis(panels[1], [row for arm in ARM_COLOURS for row in evaluations_of(record, arm)])
    moments = moments_of(record)
    if moments:
        end = max(last_step(record), moments[-1].step)
        counts = [moment.active for moment in moments]
        panels[2].step(
            [*(m.step for m in moments), end], [*counts, counts[-1]], where="post", color=ARM_COLOURS[EXPERIMENT]
        )
        for edit in EDITS:
            held = [m for m in moments if any(event.edit == edit for event in m.edits)]
            if held:
                mark = {
                    "marker": EDIT_MARKS[edit],
                    "color": EDIT_COLOURS[edit],
                    "label": DONE[edit],
                    "zorder": 5,
                    "s": 36,
                }
                panels[2].scatter([m.step for m in held], [m.active for m in held], **mark)
        panels[2].yaxis.get_major_locator().set_params(integer=True)
        panels[2].margins(y=0.15)
    for panel, title in zip(
        panels, ("training loss (nats per token)", _ppl_title(record), "active heads"), strict=True
    ):
        dress(panel, title)
        _shade(panel, record)
        if panel.get_legend_handles_labels()[1]:
            panel.legend(frameon=False, fontsize=8, loc="upper right", ncols=3)
    _name_phases(panels[0], record)
    panels[2].set_xlabel("optimizer steps")
    headline(figure, record, "the complete process")
    save_png(figure, path)
    return True


def multi_cycle_png(record: RunRecord, path: Path) -> bool:
    """Draw perplexity, sparsity and the distance from the control arm, phase by phase, cycle after cycle.

    Args:
        record: Of the run.
        path: The picture.

    Returns:
        Whether there was anything to draw.
    """
    mine = stages_of(record)
    if not mine:
        return False
    places = {(row.cycle, row.phase, row.step): index for index, row in enumerate(mine)}
    control = [row for row in evaluations_of(record, CONTROL) if (row.cycle, row.phase, row.step) in places]
    figure = blank_figure(11, 7.6)
    panels = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1.6, 1.8))
    _draw_evaluations(panels[0], CONTROL, control, [places[row.cycle, row.phase, row.step] for row in control])
    _draw_evaluations(panels[0], EXPERIMENT, mine, list(range(len(mine))))
    perplexity_axis(panels[0], mine + control)
    panels[0].legend(frameon=False, fontsize=8, loc="upper right", ncols=2)
    panels[1].bar(range(len(mine)), [row.sparsity for row in mine], color="#56B4E9", width=0.8)
    panels[1].yaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g}%")
    gaps = []
    for row in mine:
        other = reference(record, row)
        gaps.append(row.ppl / other.ppl - 1 if other and other.ppl > 0 else float("nan"))
    colours = [EDIT_COLOURS["prune"] if gap > 0 else EDIT_COLOURS["grow"] for gap in gaps]
    panels[2].bar(range(len(mine)), np.nan_to_num(gaps, posinf=0.0), color=colours, width=0.8)
    panels[2].axhline(0, color="black", linewidth=0.7)
    panels[2].yaxis.set_major_formatter(lambda share, _: f"{100 * share:+.3g}%")
    if not np.isfinite(gaps).any():
        panels[2].text(0.5, 0.6, "no control arm", transform=panels[2].transAxes, ha="center", color="#666d76")
    titles = (
        _ppl_title(record),
        "sparsity (share of heads pruned)",
        "perplexity above (+) or below (-) the control arm's",
    )
    for panel, title in zip(panels, titles, strict=True):
        dress(panel, title)
        for cycle in {row.cycle for row in mine if row.cycle % 2}:
            at = [index for index, row in enumerate(mine) if row.cycle == cycle]
            panel.axvspan(min(at) - 0.5, max(at) + 0.5, color="#777780", alpha=0.08, linewidth=0)
    stage_ticks(panels[2], mine)
    headline(figure, record, f"{len(cycles_of(record))} cycle{'s' * (len(cycles_of(record)) != 1)}")
    save_png(figure, path)
    return True


def attention_heatmaps_png(record: RunRecord, path: Path) -> bool:
    """Draw entropy, gradient, activity and importance of every head, a column a cycle, pruned heads crossed out.

    Args:
        record: Of the run.
        path: The picture.

    Returns:
        Whether there was anything to draw.
    """
    rows = first_of_cycles(record.signals)
    names = [name for name in HEAT_SIGNALS if any(name in row.signals for row in rows)]
    if not rows or not names:
        return False
    if len(rows) > _MOST_COLUMNS:
        rows = [rows[round(at)] for at in np.linspace(0, len(rows) - 1, _MOST_COLUMNS)]
    figure = blank_figure(1.6 + 2.1 * len(rows) + 0.6 * (len(rows) < 3), 0.9 + 2.0 * len(names))
    panels = figure.subplots(len(names), len(rows), squeeze=False)
    for panel, row in zip(panels[0], rows, strict=True):
        panel.set_title(f"cycle {row.cycle}" if row.cycle else phase_name(row.phase), fontsize=9)
    for line, name in zip(panels, names, strict=True):
        grids = [grid_of(row.signals[name]) if name in row.signals else None for row in rows]
        norm = shared_norm([grid for grid in grids if grid is not None])
        image = None
        for panel, row, grid in zip(line, rows, grids, strict=True):
            if grid is None:
                panel.text(0.5, 0.5, "not measured", transform=panel.transAxes, ha="center", va="center", fontsize=8)
                panel.set_axis_off()
                continue
            image = draw_heads(panel, grid, np.array(row.active, dtype=bool), norm)
        line[0].set_ylabel(f"{name}\nlayer", fontsize=8)
        if image is not None:
            colour_bar(figure, image, list(line))
    for panel in panels[-1]:
        panel.set_xlabel("head", fontsize=8)
    headline(figure, record, "heads as pruning found them" if len(rows) > 1 else "heads")
    save_png(figure, path)
    return True


def shared_norm(grids: Sequence[np.ndarray]) -> Normalize:
    """Colours that mean the same on every grid: linear from 0, logarithmic where few values are far above the others."""
    from matplotlib.colors import LogNorm, Normalize

    known = np.concatenate([grid[np.isfinite(grid)] for grid in grids]) if grids else np.empty(0)
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    if heavy_tailed(grids):
        return LogNorm(max(float(known[known > 0].min()), high * 1e-6), high)
    return Normalize(min(0.0, low), high if high > min(0.0, low) else low + 1.0)


def colour_bar(figure: Figure, image: AxesImage, panels: Any) -> None:
    """A slim colour bar with plain numbers beside the panels."""
    bar = figure.colorbar(image, ax=panels, shrink=0.85, pad=0.01, aspect=14)
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    bar.ax.tick_params(labelsize=7)
    bar.ax.minorticks_off()


def draw_heads(panel: Axes, grid: np.ndarray, active: np.ndarray, norm: Normalize) -> AxesImage:
    """Draw a (L, H) grid with pruned heads crossed out; returns the image, for a colour bar."""
    image = panel.imshow(grid, cmap="Blues", norm=norm, aspect="auto")
    if active.shape == grid.shape:
        layers, heads = np.nonzero(~active)
        size = 26 if max(grid.shape) <= 8 else 12
        panel.scatter(heads, layers, marker="x", color=EDIT_COLOURS["prune"], s=size, linewidths=1.2)
    for axis, count in ((panel.xaxis, grid.shape[1]), (panel.yaxis, grid.shape[0])):
        axis.set_ticks(range(0, count, max(1, -(-count // 6))))
    panel.tick_params(labelsize=7)
    return image


def first_of_cycles(rows: Sequence[SignalsRow]) -> list[SignalsRow]:
    """The first measurement of each cycle: what its pruning was decided on."""
    firsts: dict[int, SignalsRow] = {}
    for row in rows:
        firsts.setdefault(row.cycle, row)
    held = [row for cycle, row in firsts.items() if cycle] or list(firsts.values())
    shape = np.array(held[0].active).shape if held else ()
    return [row for row in held if np.array(row.active).shape == shape]


def dress(panel: Axes, title: str) -> None:
    """Give a panel its title and take away what is not needed."""
    panel.set_title(title, loc="left", fontsize=9.5)
    panel.grid(alpha=0.25)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(labelsize=8)


def headline(figure: Figure, record: RunRecord, said: str) -> None:
    """Write the model and what is shown above a figure; a run that is not finished says so."""
    settings = record.config.get("settings")
    model = (settings if isinstance(settings, dict) else record.config).get("model_name") or record.folder.name
    status = record.config.get("status", "")
    cut = f" ({status})" if status in ("stopped", "failed", "running") else ""
    figure.suptitle(f"{model}: {said}{cut}", x=0.01, ha="left", fontsize=12)


def perplexity_axis(panel: Axes, rows: Sequence[EvaluationRow]) -> None:
    """Make the axis logarithmic, with ordinary numbers, where the perplexities differ much."""
    from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

    ticks = log_ticks(row.ppl for row in rows)
    if ticks:
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(FixedLocator(ticks))
        panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        panel.yaxis.set_minor_locator(NullLocator())
        panel.yaxis.set_minor_formatter(NullFormatter())


def stage_ticks(panel: Axes, rows: Sequence[EvaluationRow]) -> None:
    """Name the stages below an axis that counts evaluations."""
    names = [
        f"{row.cycle} {SHORT_PHASES.get(row.phase, row.phase)}" if row.cycle else phase_name(row.phase) for row in rows
    ]
    every = max(1, -(-len(rows) // 40))
    panel.set_xticks(range(0, len(rows), every), names[::every], rotation=90 if len(rows) > 9 else 0, fontsize=8)
    panel.set_xlim(-0.6, len(rows) - 0.4)


def _draw_evaluations(panel: Axes, arm: str, rows: Sequence[EvaluationRow], at: Sequence[int]) -> None:
    if not rows:
        return
    values = _gaps([value if value and value > 0 else None for value in finite(row.ppl for row in rows)])
    colour = ARM_COLOURS[arm]
    name = "control arm" if arm == CONTROL else arm
    panel.plot(at, values, ARM_STYLES[arm], color=colour, linewidth=1.5, label=name)
    for mark in {PHASE_MARKS.get(row.phase, "o") for row in rows}:
        held = [index for index, row in enumerate(rows) if PHASE_MARKS.get(row.phase, "o") == mark]
        size = 26 if arm == EXPERIMENT else 10
        panel.scatter([at[i] for i in held], values[held], marker=mark, color=colour, s=size, zorder=4)


def _shade(panel: Axes, record: RunRecord) -> None:
    for row in record.phases:
        if row.last_step > row.first_step:
            colour, alpha = BANDS.get(row.phase, ("#777780", 0.08))
            panel.axvspan(row.first_step, row.last_step, color=colour, alpha=alpha, linewidth=0)
    edits = sorted({event.step for event in record.events})
    if len(edits) <= _MOST_LINES:
        for step in edits:
            panel.axvline(step, color="#666d76", linewidth=0.7, alpha=0.7)
    stable = record.stabilisation.stabilised_at if record.stabilisation else None
    if stable is not None:
        panel.axvline(stable, color="black", linewidth=0.9, linestyle="--")


def _name_phases(panel: Axes, record: RunRecord) -> None:
    """Name warm-up, its stable point and the cycles inside the top of the panel."""
    spans: dict[int, list[int]] = {}
    for row in record.phases:
        if row.last_step > row.first_step:
            spans.setdefault(row.cycle, []).extend((row.first_step, row.last_step))
    place: dict[str, Any] = {"fontsize": 8, "color": "#666d76", "va": "bottom", "ha": "left", "clip_on": True}
    top = panel.get_xaxis_transform()
    every = max(1, -(-len(spans) // 14))
    for cycle, span in spans.items():
        if cycle % every == 0:
            panel.text(min(span), 0.01, f" cycle {cycle}" if cycle else " warm-up", transform=top, **place)
    stable = record.stabilisation.stabilised_at if record.stabilisation else None
    if stable is not None:
        panel.text(stable, 0.09, f"stable at {stable} ", transform=top, **(place | {"color": "black", "ha": "right"}))


def _gaps(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _ppl_title(record: RunRecord) -> str:
    splits = {row.split for row in record.evaluations}
    return f"perplexity ({'test' if 'test' in splits or not splits else next(iter(splits))} text)"
