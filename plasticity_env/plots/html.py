"""What every page of ours is made of: one file that loads nothing, figures in cards, facts, links to files."""

from __future__ import annotations

import html
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from plasticity_env.common.files import write_text
from plasticity_env.plots.dashboard_page import SCRIPT, STYLE

Figures = dict[str, dict[str, Any]]
NOT_MEASURED = '<p class="missing">not measured</p>'
# The browser itself refuses whatever the page would fetch.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"


def write_page(
    path: Path, title: str, body: str, data: dict[str, Any], *, style: str = "", script: str = "", head: str = ""
) -> None:
    """Write a page with the plotting library inside.

    Args:
        path: The HTML file.
        title: Its heading.
        body: HTML below the heading.
        data: What the scripts read: ``figures`` by the name of their place, and what else they want; strict JSON.
        style: Style sheet after the common one.
        script: JavaScript after the common one.
        head: More elements of the head.
    """
    from plotly.offline import get_plotlyjs

    held = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    write_text(
        path,
        f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
{head}<title>{html.escape(title)}</title>
<link rel="icon" href="data:,">
<style>{STYLE}{style}</style>
</head>
<body>
<main>
<h1>{html.escape(title)}</h1>
{body}
</main>
<script type="application/json" id="page-data">{held}</script>
<script>{get_plotlyjs()}</script>
<script>{SCRIPT}{script}</script>
</body>
</html>
""",
    )


def facts(pairs: list[tuple[str, str]]) -> str:
    """Names and values as small cards."""
    if not pairs:
        return NOT_MEASURED
    cards = (f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>" for name, value in pairs)
    return f'<dl class="facts">{"".join(cards)}</dl>'


def plot(figures: Figures, data: list[dict[str, Any]], layout: dict[str, Any], heading: str, below: str = "") -> str:
    """Register a Plotly figure and return the card that will hold it, with HTML ``below`` it."""
    name = f"figure-{len(figures)}"
    figures[name] = {"data": data, "layout": layout}
    height = layout["height"]
    place = f'<div class="plot" id="{name}" style="height: {height}px"></div>'
    return f'<div class="card"><h3>{html.escape(heading)}</h3>{place}{below}</div>'


def grid(cards: list[str], least: str) -> str:
    """Cards side by side, each at least ``least`` wide where the window allows."""
    return f'<div class="grid" style="--least: {least}">{"".join(cards)}</div>'


def file_links(files: list[Path], page: Path) -> str:
    """A list of files, linked relative to the page."""
    if not files:
        return '<p class="missing">none</p>'
    entries = []
    for file in files:
        relative = Path(os.path.relpath(file, page.parent)).as_posix()
        name = html.escape(relative)
        entries.append(
            f'<li><a href="{quote(relative)}">{name}</a></li>' if file.exists() else f"<li>{name}: not found</li>"
        )
    return f'<ul class="files">{"".join(entries)}</ul>'
