"""Parts of Plotly figures that our pages share: axes, titles of panels, bands and lines; colours are names in a style sheet."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any


def log_ticks(values: Iterable[float | None], factor: float = 3.0) -> list[float]:
    """Ticks of a logarithmic axis for positive values that differ by more than ``factor``; empty: a linear one will do."""
    held = [value for value in values if value is not None and math.isfinite(value) and value > 0]
    if not held or max(held) <= factor * min(held):
        return []
    ratio = max(held) / min(held)
    digits = (1, 1.5, 2, 3, 4, 5, 7) if ratio < 12 else ((1, 2, 5) if ratio < 200 else (1,))
    powers = range(math.floor(math.log10(min(held))), math.ceil(math.log10(max(held))) + 1)
    ticks = [digit * 10.0**power for power in powers for digit in digits]
    return ticks[:: max(1, len(ticks) // 24)]


def scale(values: Sequence[float | None]) -> dict[str, Any]:
    """Entries of an axis that shows positive values: logarithmic with ordinary numbers where they differ much."""
    ticks = log_ticks(values)
    return {"type": "log", "tickvals": ticks, "tickformat": "~g"} if ticks else {"tickformat": "~g"}


def head_axes(shape: tuple[int, int], most: tuple[int, int] = (8, 8), columns: str = "head") -> dict[str, Any]:
    """Both axes of a map of heads: layers go down, heads go right, at most about ``most`` ticks on each."""
    axes = {}
    for name, title, count, ticks in zip("yx", ("layer", columns), shape, most, strict=True):
        ends = [count - 0.5, -0.5] if name == "y" else [-0.5, count - 0.5]
        axes[f"{name}axis"] = {
            "title": {"text": title, "standoff": 4},
            "range": ends,
            "tick0": 0,
            "dtick": max(1, math.ceil(count / ticks)),
            "showgrid": False,
            "zeroline": False,
            "fixedrange": True,
        }
    return axes


def panel_title(text: str, top: float) -> dict[str, Any]:
    """What a panel shows, above its left corner."""
    place = {"x": 0, "y": top, "xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom"}
    return {"text": text, "showarrow": False, "font": {"size": 12, "color": "var:soft"}, **place}


def band(low: float, high: float, colour: str, name: str = "") -> dict[str, Any]:
    """A shade over all panels; a PNG's legend holds its name."""
    span = {"x0": low, "x1": high, "y0": 0, "y1": 1, "yref": "paper", "layer": "below"}
    return {"type": "rect", "fillcolor": colour, "line": {"width": 0}, "name": name, **span}


def upright(at: float, colour: str, dash: str, width: float = 1.4, name: str = "") -> dict[str, Any]:
    """A vertical line through all panels; a PNG's legend holds its name."""
    span = {"x0": at, "x1": at, "y0": 0, "y1": 1, "yref": "paper", "opacity": 0.6}
    return {"type": "line", "line": {"color": colour, "width": width, "dash": dash}, "name": name, **span}
