"""The leaderboard's interactive figures, as Plotly's data and layout; colours are names in the page's style sheet."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from plasticity_env.agents.leaderboard.report.labels import kind, label
from plasticity_env.agents.leaderboard.statistics import Estimate, Results
from plasticity_env.plots.html import Figure
from plasticity_env.plots.plotly_parts import head_axes, scale

SHOWN = 7  # players whose curves a frontier shows at first
COLOURS = 12
KIND_COLOURS = {"learned": "var:learned", "search": "var:search", "own rule": "var:own", "rule": "var:soft"}


def _label(player: str) -> str:
    """A player's label as text: Plotly reads tags."""
    return html.escape(label(player))


def colours(players: Sequence[str]) -> dict[str, str]:
    """A colour for each player; one score in one and in four rounds has one colour."""
    names = dict.fromkeys(player.rpartition("@")[0] for player in players)
    numbers = {name: index % COLOURS for index, name in enumerate(names)}
    return {player: f"var:c{numbers[player.rpartition('@')[0]]}" for player in players}


def frontier(results: Results, order: Sequence[str]) -> Figure:
    """Test perplexity over FLOPs kept, a curve a player, mean and spread over seeds; the leading ones are shown at first."""
    chosen = colours(order)
    first = set(order[:SHOWN]) | ({results.best_rule()} if results.rules else set())
    dense = math.exp(min(float(results.dense.mean()), 700.0))
    traces: list[dict[str, Any]] = []
    shown: list[float] = []
    for name in order:
        ppl = [results.perplexities(name, share) for share in results.shares]
        spread = [float(np.std(values, ddof=1)) if len(values) > 1 else 0.0 for values in ppl]
        kept = results.flops[results.index(name)].mean(1)  # (S,)
        said = [
            f"{_label(name)}, {share:.0%} pruned: {values.mean():.2f} ± {deviation:.2f}"
            for share, values, deviation in zip(results.shares, ppl, spread, strict=True)
        ]
        learned, shown = kind(name) == "learned", [*shown, *(float(values.mean()) for values in ppl)]
        traces.append(
            {"type": "scatter", "mode": "lines+markers", "name": _label(name), "x": kept.tolist()}
            | {"y": [float(values.mean()) for values in ppl], "text": said, "hovertemplate": "%{text}<extra></extra>"}
            | {"error_y": {"type": "data", "array": spread, "thickness": 1, "width": 2, "color": chosen[name]}}
            | {"line": {"color": chosen[name], "width": 3.5 if learned else 1.8, "dash": _dash(name)}}
            | {"marker": {"color": chosen[name], "size": 9 if learned else 6, "symbol": _symbol(name)}}
            | {"visible": name in first}
        )
    top = {"type": "scatter", "mode": "markers", "x": [1.0], "y": [dense], "name": "dense", "meta": "ink"}
    traces.append(
        top | {"marker": {"size": 9, "symbol": "star"}, "hovertemplate": f"dense: {dense:.2f}<extra></extra>"}
    )
    layout = {
        "height": 430,
        "margin": {"l": 48, "r": 10, "t": 8, "b": 44},
        "showlegend": False,
        "hovermode": "closest",
        "xaxis": {"title": {"text": "forward FLOPs kept", "standoff": 6}, "tickformat": ".0%", "nticks": 6},
        "yaxis": {"title": {"text": "test perplexity", "standoff": 4}, **scale([dense, *shown])},
    }
    return traces, layout


def _dash(player: str) -> str:
    if kind(player) == "search":
        return "dashdot"
    return "dot" if player.endswith("@1") else "solid"


def _symbol(player: str) -> str:
    return {"learned": "circle", "search": "diamond"}.get(kind(player), "square" if player.endswith("@1") else "circle")


def intervals(found: dict[str, Estimate], title: str, marks: Sequence[float] = (), whole: bool = False) -> Figure:
    """A line for each player: a figure with its interval, in the order given, first on top.

    Args:
        found: Estimates, by player.
        title: Title of the axis.
        marks: Values at which vertical lines stand.
        whole: Figures are whole numbers.
    """
    names = list(found)
    form = ".0f" if whole else ".3f"
    ends = [end for one in found.values() for end in (one.low, one.high)]
    traces = []
    for one in dict.fromkeys(kind(name) for name in names):
        own = [name for name in names if kind(name) == one]
        each = [found[name] for name in own]
        said = [f"{_label(n)}: {e.text(form)}" for n, e in zip(own, each, strict=True)]
        traces.append(
            {"type": "scatter", "mode": "markers", "x": [e.value for e in each], "y": [_label(name) for name in own]}
            | {"marker": {"size": 8, "color": KIND_COLOURS[one]}, "name": one, "text": said}
            | {"hovertemplate": "%{text}<extra></extra>"}
            | {
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "thickness": 2.5,
                    "width": 0,
                    "color": KIND_COLOURS[one],
                }
                | {"array": [e.high - e.value for e in each], "arrayminus": [e.value - e.low for e in each]}
            }
        )
    layout = {
        "height": 64 + 21 * len(names),
        "margin": {"l": 10, "r": 10, "t": 6, "b": 40},
        "showlegend": False,
        "hovermode": "closest",
        "xaxis": {"title": {"text": title, "standoff": 6}, "zeroline": False}
        | ({"tick0": 1, "dtick": max(1, math.ceil(len(names) / 6))} if whole else {"nticks": 6})
        | (scale(ends) if not whole and min(ends) > 0 else {}),
        "yaxis": {"categoryorder": "array", "categoryarray": [_label(name) for name in reversed(names)]}
        | {"automargin": True, "tickfont": {"size": 11}, "fixedrange": True, "range": [-0.7, len(names) - 0.3]},
        "shapes": [
            {"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "yref": "paper", "line": {"width": 1, "dash": "dot"}}
            for at in marks
        ],
    }
    return traces, layout


def head_map(shape: tuple[int, int], low: float, high: float, title: str) -> Figure:
    """An empty map of the heads, that the page's script fills: low goes first, blank stays.

    Args:
        shape: (layers, units).
        low, high: Ends of its colours; shares where high is at most 1.
        title: Title of the colours.
    """
    bar = {"thickness": 9, "outlinewidth": 0, "xpad": 4, "nticks": 6, "title": {"text": title, "side": "right"}}
    if high <= 1:
        bar["tickformat"] = ".0%"
    heat: dict[str, Any] = {
        "type": "heatmap",
        "z": [],
        "customdata": [],
        "zmin": low,
        "zmax": high,
        "colorbar": bar,
    }
    heat |= {"xgap": 1.5, "ygap": 1.5, "hovertemplate": "layer %{y}, unit %{x}: %{customdata}<extra></extra>"}
    heat |= {"colorscale": [[0, "var:first"], [0.5, "var:middle"], [1, "var:last"]], "hoverongaps": True}
    layout = {
        "height": 96 + min(22, max(12, 440 // shape[0])) * shape[0],
        "margin": {"l": 38, "r": 4, "t": 6, "b": 40},
        "showlegend": False,
        **head_axes(shape, (10, 9)),
    }
    return [heat], layout
