"""Pages: one HTML file that loads nothing, from a template in which every value that is filled in stays text."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from plasticity_env.common.files import write_text

Figure = tuple[list[dict[str, Any]], dict[str, Any]]  # Plotly's traces and layout


class Plot(NamedTuple):
    """The place of a figure on a page: the name of its place, its heading, its height in pixels."""

    name: str
    heading: str
    height: int


class Figures(dict[str, dict[str, Any]]):
    """The Plotly figures of a page, by the name of their place."""

    def add(self, figure: Figure, heading: str) -> Plot:
        """Give a figure a place, which a template draws with `parts.plot`."""
        name = f"figure-{len(self)}"
        self[name] = {"data": figure[0], "layout": figure[1]}
        return Plot(name, heading, figure[1]["height"])

    def add_if(self, figure: Figure | None, heading: str) -> Plot | None:
        """The same as `add`, or None where there is nothing to draw."""
        return None if figure is None else self.add(figure, heading)


class Cell(NamedTuple):
    """A cell of a table: what it says, what it is sorted by, classes of the style sheet, a small line below, a hint."""

    text: str
    value: float | str | None = None
    kind: str = ""
    small: str = ""
    title: str = ""


NOT_MEASURED = Cell("–", kind="none", title="not measured")


class Link(NamedTuple):
    """A file beside a page: its name, where it is, whether it is there, and its size as text."""

    name: str
    href: str
    there: bool
    size: str = ""


@cache
def environment(room: str) -> Environment:
    """Templates of a package and those that all pages share; values are escaped, and a missing one is an error.

    Args:
        room: The package whose folder ``templates`` is looked through first.
    """
    found = Environment(
        loader=ChoiceLoader([PackageLoader(room), PackageLoader("plasticity_env.plots")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.policies["json.dumps_kwargs"] = {"allow_nan": False}  # strict JSON, in the order given
    return found


def write_page(path: Path, room: str, template: str, *, title: str, data: dict[str, Any], **values: Any) -> None:
    """Write a page with the plotting library inside.

    Args:
        path: The HTML file.
        room: The package that holds the template.
        template: Name of the template; it extends ``base.html``.
        title: Heading of the page.
        data: What its scripts read: ``figures`` by the name of their place, and what else they want; strict JSON.
        values: What the template names.
    """
    from plotly.offline import get_plotlyjs

    page = environment(room).get_template(template)
    write_text(path, page.render(title=title, data=data, plotly=Markup(get_plotlyjs()), **values))


def file_links(files: Iterable[Path], page: Path, root: Path | None = None) -> list[Link]:
    """Links to files, relative to a page.

    Args:
        files: Any files; those that are not there are named, not linked.
        page: Page that holds the links.
        root: Names are relative to this folder, and sizes are given; None: names are relative to the page.
    """
    links = []
    for file in files:
        href = Path(os.path.relpath(file, page.parent)).as_posix()
        name = href if root is None else file.relative_to(root).as_posix()
        links.append(Link(name, quote(href), file.exists(), "" if root is None else _size(file.stat().st_size)))
    return links


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
