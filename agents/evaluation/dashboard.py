"""One HTML file that shows a run: the frontier, the comparison, the training and the environment, without a network."""

from __future__ import annotations

import base64
import html
import io
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from plasticity_env.agents.evaluation.frontier import FrontierPoint, controller_colours, frontier_points, setting_of
from plasticity_env.agents.evaluation.learning_curve import CURVES, curves_of
from plasticity_env.common.errors import InputError
from plasticity_env.plots.charts import PALETTE
from plasticity_env.plots.html import NOT_MEASURED, Cell, Figures, Plot, file_links, write_page
from plasticity_env.plots.plotly_parts import head_axes

SHOWN = 6  # curves of a figure; the others wait in its legend
_NOT_MEASURED = {name: None for name in ("about", "command", "dense", "frontiers", "tables", "maps")}


def write_dashboard(
    path: Path,
    *,
    title: str,
    results: dict[str, Any] | None,
    training: list[dict[str, Any]] | None,
    frames: list[tuple[str, np.ndarray]],
    summary: list[tuple[str, str]],
    files: list[Path],
    headline: str = "",
    running: bool = False,
) -> None:
    """Write the dashboard of a run.

    Args:
        path: The HTML file.
        title: Its heading.
        results: What the comparison of controllers wrote (``results.json``); None: not measured.
        training: Rows of ``metrics.jsonl``; None: not measured.
        frames: Captions and pictures of the environment, (H, W, 3) uint8, in the order of the steps.
        summary: Names and values of the key facts.
        files: Files of the run, linked relative to ``path``.
        headline: What was compared and who won, in a sentence or two.
        running: Whether more is to come, so that the page loads itself again now and then.

    Raises:
        InputError: A frame is no (H, W, 3) uint8 picture.
    """
    figures = Figures()
    measured = _measured(results, figures) if results and results["rows"] else _NOT_MEASURED
    write_page(
        path,
        "plasticity_env.agents.evaluation",
        "dashboard.html",
        title=title,
        data={"figures": figures, "frames": [{"caption": c, "src": _data_uri(c, picture)} for c, picture in frames]},
        facts=summary,
        headline=headline,
        running=running,
        **measured,
        curves=_learning(training or [], figures),
        frames=bool(frames),
        files=file_links(files, path),
    )


def _measured(results: dict[str, Any], figures: Figures) -> dict[str, Any]:
    """What the page shows of a comparison."""
    tokens = f"{results['test_blocks']} blocks of {results['max_length']} tokens"
    return {
        "about": f"{results['model']} on {results['dataset']} ({results['mode']}), {tokens}, measured on {results['machine']}",
        "command": results["command"],
        "dense": f"{results['dense']['test_ppl']:.4g}",
        "frontiers": _frontiers(results, figures),
        "tables": _tables(results),
        "maps": _maps(results, figures),
    }


def _frontiers(results: dict[str, Any], figures: Figures) -> list[Plot]:
    """A figure a repair: perplexity over FLOPs kept."""
    points, dense = frontier_points(results), float(results["dense"]["test_ppl"])
    highest, lowest = max(point.high for point in points), min(dense, *(point.low for point in points))
    log = highest > 3 * lowest
    ticks = [digit * 10.0**power for power in range(-1, 7) for digit in (1, 1.5, 2, 3, 4, 5, 7)]
    layout = {
        "height": 460,
        "margin": {"l": 54, "r": 14, "t": 10, "b": 50},
        "xaxis": {"title": {"text": "FLOPs kept (share of dense)"}, "tickformat": ".0%", "autorange": "reversed"},
        "yaxis": {
            "title": {"text": "test perplexity", "standoff": 8},
            "type": "log" if log else "linear",
            "tickformat": "~g",
            **({"tickvals": ticks} if log else {}),
        },
        "legend": {"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0},
        "shapes": [
            {
                "type": "line",
                "xref": "paper",
                "x0": 0,
                "x1": 1,
                "y0": dense,
                "y1": dense,
                "line": {"width": 1, "dash": "dot"},
            }
        ],
    }
    cards = []
    for repair in dict.fromkeys(point.repair for point in points):
        mine = [point for point in points if point.repair == repair]
        traces = []
        drawn = _most_telling(results)
        for index, (name, colour) in enumerate(controller_colours(results).items()):
            line = _line(mine, name, colour, "solid" if index < len(PALETTE) else "dash")
            traces += line if name in drawn else [{**trace, "visible": "legendonly"} for trace in line]
        mark = {"x": [1.0], "y": [dense], "mode": "markers", "name": "dense", "meta": "ink", "marker": {"size": 11}}
        cards.append(figures.add(([*traces, {"type": "scatter", **mark}], layout), f"repair: {repair}"))
    return cards


def _most_telling(results: dict[str, Any]) -> list[str]:
    """Names of the controllers that are drawn unless one asks for more: the networks, then the best rules."""
    best = _by_loss(results["rows"])
    return sorted(best, key=lambda name: not name.startswith("ann"))[:SHOWN]


def _by_loss(rows: list[dict[str, Any]]) -> list[str]:
    """Controllers by their mean rise of the test loss, lowest first; one that pruned nothing comes last."""
    rises: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        rises[row["controller"]].append(row["delta_nll"] if row["flops_kept"] < 1 else math.inf)
    return sorted(rises, key=lambda name: float(np.mean(rises[name])))


def _line(points: list[FrontierPoint], controller: str, colour: str, dash: str) -> list[dict[str, Any]]:
    """A controller's band and its line, as Plotly traces."""
    line = [point for point in points if point.controller == controller]
    if not line:
        return []
    flops = [point.flops for point in line]
    band = {
        "type": "scatter",
        "x": flops + flops[::-1],
        "y": [point.high for point in line] + [point.low for point in line[::-1]],
        "fill": "toself",
        "fillcolor": f"rgba({', '.join(str(int(colour[start : start + 2], 16)) for start in (1, 3, 5))}, 0.14)",
        "line": {"width": 0},
        "mode": "lines",
        "hoverinfo": "skip",
        "showlegend": False,
        "legendgroup": controller,
    }
    said = [
        f"{point.setting}<br>perplexity {point.ppl:.4g} ({point.low:.4g} to {point.high:.4g}, n={point.seeds})"
        f"<br>FLOPs kept {point.flops:.1%}"
        for point in line
    ]
    name = html.escape(controller)
    mean = {
        "type": "scatter",
        "x": flops,
        "y": [point.ppl for point in line],
        "text": said,
        "hovertemplate": f"<b>{name}</b>, %{{text}}<extra></extra>",
        "mode": "lines+markers",
        "line": {"color": colour, "width": 2, "dash": dash},
        "marker": {"size": 7},
        "name": name,
        "legendgroup": controller,
    }
    return [band, mean] if len(line) > 1 else [mean]


def _tables(results: dict[str, Any]) -> list[tuple[str, list[str], list[list[Cell]]]]:
    """A table a repair: its name, its columns, and a row a controller with a cell a setting."""
    rows = sorted(results["rows"], key=lambda row: (row["sparsity"] is None, row["sparsity"] or row["flop_price"] or 0))
    settings = list(dict.fromkeys(setting_of(row) for row in rows))
    tables = []
    for repair in dict.fromkeys(row["repair"] for row in results["rows"]):
        cells: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for row in results["rows"]:
            if row["repair"] == repair:
                cells[row["controller"], setting_of(row)].append(row)
        shown = [name for name in settings if any(key[1] == name for key in cells)]
        tables.append((repair, ["controller", *shown, "seconds", "evaluations"], _rows(shown, cells)))
    return tables


def _rows(settings: list[str], cells: dict[tuple[str, str], list[dict[str, Any]]]) -> list[list[Cell]]:
    means = {key: float(np.mean([row["test_ppl"] for row in rows])) for key, rows in cells.items()}
    columns = {name: [mean for key, mean in means.items() if key[1] == name] for name in settings}
    lines = []
    for controller in dict.fromkeys(key[0] for key in cells):
        every = [row for key, rows in cells.items() if key[0] == controller for row in rows]
        line = [Cell(controller, controller)]
        for setting in settings:
            rows = cells.get((controller, setting))
            best = len(columns[setting]) > 1 and means.get((controller, setting)) == min(columns[setting])
            line.append(_cell(rows, best) if rows else NOT_MEASURED)
        for key, digits in (("seconds", ".3g"), ("evaluations", ".4g")):
            mean = float(np.mean([row[key] for row in every]))
            line.append(Cell(f"{mean:{digits}}", mean))
        lines.append(line)
    return lines


def _cell(rows: list[dict[str, Any]], best: bool) -> Cell:
    ppl = [row["test_ppl"] for row in rows]
    digits = ".2f" if max(ppl) < 1000 else ".4g"
    spread = f" ± {np.std(ppl, ddof=1):{digits}}" if len(ppl) > 1 else ""
    small = f"{np.mean([row['flops_kept'] for row in rows]):.1%} FLOPs, n={len(ppl)}"
    return Cell(f"{np.mean(ppl):{digits}}{spread}", float(np.mean(ppl)), "best" if best else "", small)


def _learning(rows: list[dict[str, Any]], figures: Figures) -> list[Plot]:
    cards = []
    for index, (name, (steps, values)) in enumerate(curves_of(rows).items()):
        trace = {
            "type": "scatter",
            "x": steps,
            "y": [value if math.isfinite(value) else None for value in values],
            "mode": "lines" if len(steps) > 1 else "markers",
            "line": {"color": PALETTE[index % len(PALETTE)], "width": 1.8},
            "hovertemplate": "%{y:.4g} at step %{x}<extra></extra>",
        }
        axes = {"xaxis": {"title": {"text": "environment steps"}, "nticks": 5}, "yaxis": {"nticks": 6}}
        layout = {"height": 250, "margin": {"l": 48, "r": 12, "t": 8, "b": 42}, "showlegend": False, **axes}
        cards.append(figures.add(([trace], layout), CURVES[name]))
    return cards


def _maps(results: dict[str, Any], figures: Figures) -> dict[str, list[Plot]]:
    """A heat map a controller for each setting, of which the page shows one setting at a time."""
    groups: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for row in results["rows"]:
        groups[setting_of(row)][row["controller"]].append(row["active"])
    order = _by_loss(results["rows"])
    return {
        setting: [
            _heat_map(
                1.0 - np.mean(np.array(controllers[name], dtype=float), axis=0),
                f"{name}, {len(controllers[name])} rows",
                figures,
            )
            for name in order
            if name in controllers
        ]
        for setting, controllers in groups.items()
    }


def _heat_map(share: np.ndarray, heading: str, figures: Figures) -> Plot:
    """The share (L, H) of the rows in which each head is pruned."""
    trace = {
        "type": "heatmap",
        "z": share.round(4).tolist(),
        "zmin": 0,
        "zmax": 1,
        "xgap": 2,
        "ygap": 2,
        "showscale": False,
        "hovertemplate": "layer %{y}, head %{x}: pruned in %{z:.0%}<extra></extra>",
    }
    layout = {"height": 110 + 18 * min(len(share), 24), "margin": {"l": 40, "r": 8, "t": 6, "b": 38}}
    layout |= head_axes((len(share), share.shape[1]))
    return figures.add(([trace], layout), heading)


def _data_uri(caption: str, picture: np.ndarray) -> str:
    """A picture (H, W, 3) as a PNG inside a link."""
    from PIL import Image

    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise InputError(f"frame {caption!r} is {picture.dtype} {picture.shape}: a picture is uint8 of shape (H, W, 3)")
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
