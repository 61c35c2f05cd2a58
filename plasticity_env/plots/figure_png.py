"""A page's Plotly figure as a PNG: matplotlib draws its panels, lines, marks, bars and bands in the page's light colours."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plasticity_env.plots.charts import fitted, save_png
from plasticity_env.plots.html import Figure, environment

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DASHES = {"solid": "-", "dot": ":", "dash": "--"}
MARKS = {"triangle-down": "v", "triangle-up": "^", "diamond": "D", "circle": "o", "circle-open": "o", "square": "s"}
STEPS = {"linear": "default", "hv": "steps-post", "hvh": "steps-mid"}
_LEFT, _RIGHT, _TOP, _BOTTOM = 0.75, 0.2, 0.75, 0.95  # margins, inches
_PIXELS = 82  # of a page that an inch holds


def figure_png(figure: Figure, path: Path, heading: str, room: str, sheet: str, width: float = 11.0) -> None:
    """Draw a figure of panels above each other, with a legend of its named traces and shapes.

    Args:
        figure: Traces "scatter" and "bar", shapes over all panels, and an axis with a ``domain`` for each panel.
        path: The picture.
        heading: Heading above it.
        room: The package whose templates hold the style sheet.
        sheet: Name of the style sheet that the figure's colours ("var:name") stand in.
        width: Width in inches.
    """
    from matplotlib.figure import Figure as Drawing

    (traces, layout), colour = figure, _colours(room, sheet)
    height = layout["height"] / _PIXELS
    said = fitted(heading, 0.98 * width, 12)
    top = _TOP + 0.2 * said.count("\n")
    whole = height + top + _BOTTOM
    drawing = Drawing(figsize=(width, whole), dpi=160)
    panels: dict[str, Axes] = {}
    for name, axis in layout.items():
        if name.startswith("yaxis"):
            low, high = axis.get("domain", (0, 1))
            box = (
                _LEFT / width,
                (_BOTTOM + low * height) / whole,
                1 - (_LEFT + _RIGHT) / width,
                (high - low) * height / whole,
            )
            panel = drawing.add_axes(box, sharex=next(iter(panels.values()), None))
            _dress(panel, axis)
            panels[f"y{name[5:]}"] = panel
    handles: dict[str, Any] = {}
    for shape in layout.get("shapes", ()):
        for panel in panels.values():
            drawn = _draw_shape(panel, shape, colour)
            if shape.get("name"):
                handles.setdefault(shape["name"], drawn)
    for trace in traces:
        drawn = _draw_trace(panels[trace.get("yaxis", "y")], trace, colour)
        if trace.get("name"):
            handles.setdefault(trace["name"], drawn)
    lowest = list(panels.values())[-1]
    for panel in panels.values():
        panel.tick_params(labelbottom=panel is lowest)
    _dress_below(lowest, layout["xaxis"])
    for note in layout.get("annotations", ()):
        up = (_BOTTOM + note["y"] * height) / whole
        style: dict[str, Any] = {"fontsize": note["font"]["size"] * 0.78, "color": colour(note["font"]["color"])}
        if note.get("xref") == "paper":
            drawing.text(_LEFT / width, up + 0.05 / whole, note["text"], **style)
        else:
            first, last = layout["xaxis"]["range"]
            share = (note["x"] - first) / (last - first)
            drawing.text((_LEFT + share * (width - _LEFT - _RIGHT)) / width, up, note["text"], ha="center", **style)
    if handles:
        drawing.legend(
            handles.values(), handles, loc="lower center", ncols=min(8, len(handles)), fontsize=8, frameon=False
        )
    drawing.suptitle(said, x=0.01, y=1 - 0.08 / whole, va="top", ha="left", fontsize=12)
    save_png(drawing, path)


def _colours(room: str, sheet: str) -> Callable[[str], Any]:
    """Reads a colour: one of the style sheet's first, light set, or one written out."""
    text = "".join(environment(room).get_template(name).render() for name in ("page.css", sheet))
    light = {name: value for name, value in reversed(re.findall(r"--([\w-]+): ([^;]+);", text))}

    def read(value: str) -> Any:
        value = light[value[4:]] if value.startswith("var:") else value
        parts = re.fullmatch(r"rgba\((.+)\)", value)
        if not parts:
            return value
        *rgb, alpha = map(float, parts.group(1).split(","))
        return (*(part / 255 for part in rgb), alpha)

    return read


def _draw_shape(panel: Axes, shape: dict[str, Any], colour: Callable[[str], Any]) -> Any:
    if shape["type"] == "rect":
        return panel.axvspan(shape["x0"], shape["x1"], facecolor=colour(shape["fillcolor"]), linewidth=0)
    line = shape["line"]
    style: dict[str, Any] = {"linestyle": DASHES[line["dash"]], "linewidth": line["width"], "alpha": shape["opacity"]}
    return panel.axvline(shape["x0"], color=colour(line["color"]), **style)


def _draw_trace(panel: Axes, trace: dict[str, Any], colour: Callable[[str], Any]) -> Any:
    x, y = (np.array([np.nan if value is None else value for value in trace[name]], float) for name in "xy")
    marker = trace.get("marker", {})
    drawn: Any = None
    style: dict[str, Any]
    if trace["type"] == "bar":
        bars = panel.bar(x, np.nan_to_num(y), color=[colour(one) for one in marker["color"]], width=0.6)
        if "text" in trace:
            panel.bar_label(bars, trace["text"], fontsize=8, padding=2)
        return bars
    if "lines" in trace["mode"]:
        line = trace["line"]
        style = {
            "linestyle": DASHES[line.get("dash", "solid")],
            "drawstyle": STEPS[line.get("shape", "linear")],
        }
        style |= {"linewidth": line["width"] * 0.85, "alpha": trace.get("opacity", 1.0)}
        (drawn,) = panel.plot(x, y, color=colour(line["color"]), **style)
    if "markers" in trace["mode"]:
        symbols = _spread(marker.get("symbol", "circle"), len(x))
        for symbol in dict.fromkeys(symbols):
            at = [place for place, one in enumerate(symbols) if one == symbol]
            shade, size = colour(marker["color"]), (marker["size"] * 0.7) ** 2
            face = "white" if symbol.endswith("-open") else shade
            dots = panel.scatter(
                x[at], y[at], s=size, marker=MARKS[symbol], facecolors=face, edgecolors=shade, zorder=4
            )
            drawn = drawn or dots
    if "text" in trace["mode"]:
        below = trace["textposition"].startswith("bottom")
        style = {"textcoords": "offset points", "ha": "center", "va": "top" if below else "bottom", "fontsize": 7}
        style["bbox"] = {"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.6}
        for across, up, word in zip(x, y, trace["text"], strict=True):
            if np.isfinite(up):
                panel.annotate(word, (across, up), xytext=(0, -6 if below else 6), **style)
    return drawn


def _spread(value: str | Sequence[str], count: int) -> list[str]:
    return [value] * count if isinstance(value, str) else list(value)


def _dress(panel: Axes, axis: dict[str, Any]) -> None:
    """Scale, limits and ticks of a panel's own axis."""
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

    panel.grid(alpha=0.25)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(labelsize=8)
    panel.margins(y=0.1)
    form = axis.get("tickformat", "~g")
    if axis.get("type") == "log":
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(FixedLocator(axis["tickvals"]))
        panel.yaxis.set_minor_locator(NullLocator())
    else:
        panel.yaxis.set_major_locator(MaxNLocator(axis.get("nticks", 5), integer=form == "d"))
    sign = "+" if form.startswith("+") else ""
    panel.yaxis.set_major_formatter(lambda v, _: f"{100 * v:{sign}.3g}%" if form.endswith("%") else f"{v:g}")
    if "range" in axis:
        panel.set_ylim(*axis["range"])
    if axis.get("zeroline"):
        panel.axhline(0, color="black", linewidth=0.7)


def _dress_below(panel: Axes, axis: dict[str, Any]) -> None:
    """Title, limits and ticks of the axis that the panels share."""
    panel.set_xlabel(axis.get("title", {}).get("text", ""), fontsize=9)
    panel.set_xlim(*axis["range"])
    if "tickvals" in axis:
        upright = len(axis["tickvals"]) > 9
        panel.set_xticks(axis["tickvals"], axis["ticktext"], rotation=90 if upright else 0, fontsize=8)
