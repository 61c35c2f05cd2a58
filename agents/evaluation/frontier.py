"""The frontier of a comparison: test perplexity against FLOPs kept, a line a controller."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plasticity_env.common.errors import InputError
from plasticity_env.plots.charts import MARKERS, PALETTE, blank_figure, plain_log_ticks, save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class FrontierPoint:
    """One controller at one setting, over its seeds.

    Attributes:
        controller: Name of the controller.
        repair: Name of the repair.
        setting: Readable name of the setting that the point belongs to.
        flops: Mean share of the dense FLOPs kept.
        ppl: Mean test perplexity.
        low: Lowest test perplexity of a seed.
        high: Highest test perplexity of a seed.
        seeds: How many rows the point stands for.
    """

    controller: str
    repair: str
    setting: str
    flops: float
    ppl: float
    low: float
    high: float
    seeds: int


def setting_of(row: dict[str, Any]) -> str:
    """What the controller was asked for: a share of heads to prune, or a price of FLOPs at which it chose itself."""
    if row["sparsity"] is not None:
        return f"{row['sparsity']:.0%} pruned"
    return "own choice" if row["flop_price"] is None else f"own choice at price {row['flop_price']:g}"


def frontier_points(results: dict[str, Any]) -> list[FrontierPoint]:
    """Join the seeds of each controller, repair and setting.

    Args:
        results: What the comparison of controllers wrote (``results.json``).

    Returns:
        Points in the order in which controllers first occur, each controller's from most FLOPs kept to least.
    """
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in results["rows"]:
        groups[row["controller"], row["repair"], setting_of(row)].append(row)
    points = []
    for (controller, repair, setting), rows in groups.items():
        ppl = [row["test_ppl"] for row in rows]
        flops = float(np.mean([row["flops_kept"] for row in rows]))
        point = FrontierPoint(controller, repair, setting, flops, float(np.mean(ppl)), min(ppl), max(ppl), len(rows))
        points.append(point)
    order = list(dict.fromkeys(point.controller for point in points))
    return sorted(points, key=lambda point: (order.index(point.controller), -point.flops))


def controller_colours(results: dict[str, Any]) -> dict[str, str]:
    """One colour a controller, the same in every picture."""
    names = dict.fromkeys(row["controller"] for row in results["rows"])
    return {name: PALETTE[index % len(PALETTE)] for index, name in enumerate(names)}


def frontier_png(results: dict[str, Any], path: Path) -> None:
    """Draw perplexity against FLOPs kept, a panel a repair: a line a controller, its band from best to worst seed.

    Args:
        results: What the comparison of controllers wrote (``results.json``).
        path: The picture, 1600x1000 pixels.

    Raises:
        InputError: There is no row to draw.
    """
    points = frontier_points(results)
    if not points:
        raise InputError("the results hold no row, so there is no frontier to draw: run the comparison first")
    repairs = list(dict.fromkeys(point.repair for point in points))
    figure = blank_figure()
    panels = figure.subplots(1, len(repairs), sharey=True, squeeze=False)[0]
    dense = results["dense"]["test_ppl"]
    highest, lowest = max(point.high for point in points), min(dense, *(point.low for point in points))
    least = min(point.flops for point in points)
    for panel, repair in zip(panels, repairs, strict=True):
        if highest > 3 * lowest:
            panel.set_yscale("log")
            plain_log_ticks(panel)
        # The axis runs from dense on the left to pruned on the right; the free right margin holds the labels.
        panel.set_xlim(1 + 0.04 * (1 - least), least - (0.2 + 0.13 * len(repairs)) * (1 - least) - 0.01)
        margin = (highest / lowest) ** 0.06 if highest > 3 * lowest else 1 + 0.06 * (highest / lowest - 1)
        panel.set_ylim(lowest / margin, highest * margin)
        _draw_panel(panel, results, [point for point in points if point.repair == repair], dense)
        panel.set_title(f"repair: {repair}", loc="left", fontsize=10)
        panel.set_xlabel("FLOPs kept (share of the dense model)")
    panels[0].set_ylabel(f"test perplexity, {results['dataset']}")
    seeds = max(point.seeds for point in points)
    spread = f"mean of {seeds} seeds, band from best to worst" if seeds > 1 else "one seed"
    figure.suptitle(f"{results['model']} on {results['dataset']}: {spread}", x=0.02, ha="left", fontsize=12)
    save_png(figure, path)


def _draw_panel(panel: Axes, results: dict[str, Any], points: list[FrontierPoint], dense: float) -> None:
    """Draw the controllers of one repair with their names beside their last points."""
    colours = controller_colours(results)
    ends: list[tuple[float, float, str, str]] = []
    for index, (name, colour) in enumerate(colours.items()):
        line = [point for point in points if point.controller == name]
        if not line:
            continue
        flops, ppl = [point.flops for point in line], [point.ppl for point in line]
        band = [point.low for point in line], [point.high for point in line]
        if len(line) > 1:
            panel.fill_between(flops, *band, color=colour, alpha=0.15, linewidth=0)
        else:
            panel.vlines(flops, *band, color=colour, alpha=0.5)
        style = "-" if index < len(PALETTE) else "--"
        panel.plot(flops, ppl, style, color=colour, marker=MARKERS[index % len(MARKERS)], markersize=5, linewidth=1.6)
        ends.append((flops[-1], ppl[-1], name, colour))
    panel.axhline(dense, color="black", linewidth=0.8, linestyle=":", zorder=0)
    panel.plot([1.0], [dense], "o", color="black", markersize=7, clip_on=False, zorder=5)
    panel.annotate("dense", (1.0, dense), xytext=(4, -14), textcoords="offset points", fontsize=9)
    _label_ends(panel, ends)
    panel.xaxis.set_major_formatter(lambda share, _: f"{round(100 * share, 1):g}%" if share <= 1.0001 else "")
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)


def _label_ends(panel: Axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Write each name in the right margin as near to the height of its line's end as the other names allow."""
    if not ends:
        return
    to_axes = panel.transData + panel.transAxes.inverted()
    placed = sorted((float(to_axes.transform((x, y))[1]), x, y, name, colour) for x, y, name, colour in ends)
    gap = 0.042
    heights = [entry[0] for entry in placed]
    for index in range(1, len(heights)):
        heights[index] = max(heights[index], heights[index - 1] + gap)
    excess = max(0.0, heights[-1] - 0.98)
    heights[-1] -= excess
    for index in range(len(heights) - 2, -1, -1):
        heights[index] = min(heights[index], heights[index + 1] - gap)
    column = float(to_axes.transform((min(x for x, *_ in ends), 1.0))[0]) + 0.05
    for height, (_, x, y, name, colour) in zip(heights, placed, strict=True):
        panel.annotate(
            name,
            (x, y),
            xytext=(column, height),
            textcoords="axes fraction",
            color=colour,
            fontsize=9,
            fontweight="bold",
            va="center",
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.6, "shrinkA": 1, "shrinkB": 4},
        )
