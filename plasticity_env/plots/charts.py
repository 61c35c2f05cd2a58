"""What all charts of matplotlib share: colours, an empty figure, ticks, and how one is written."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plasticity_env.common.files import replace_file
from plasticity_env.common.values import user_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

# Okabe and Ito (2008), told apart by the colour-blind; black is kept for the dense model.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#A6761D", "#9467BD")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def blank_figure(width: float = 10, height: float = 6.25) -> Figure:
    """An empty figure of 160 pixels an inch, 1600x1000 unless other inches are given, outside pyplot's global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=160, layout="constrained")


def plain_log_ticks(panel: Axes, axis: str = "y") -> None:
    """Label a log axis ("x" or "y") with ordinary numbers, several a decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    chosen = panel.xaxis if axis == "x" else panel.yaxis
    chosen.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)))
    chosen.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    chosen.set_minor_formatter(NullFormatter())


def fitted(text: str, inches: float, size: float) -> str:
    """Text broken into lines that fit into a width, for letters of ``size`` points."""
    most = max(12, int(inches * 72 / (0.58 * size)))  # letters of the usual sans serif fonts are narrower than this
    return "\n".join(textwrap.fill(line, most) for line in text.split("\n"))


def put_title(figure: Figure, text: str, size: float = 12) -> None:
    """A title at the left above a figure, broken into as many lines as its width asks for."""
    figure.suptitle(fitted(text, 0.98 * figure.get_figwidth(), size), x=0.01, ha="left", fontsize=size)


def save_png(figure: Figure | SubFigure, path: str | Path) -> None:
    """Write a figure as PNG, atomically; its folder is made."""
    whole: Any = figure.figure
    replace_file(user_path(path, "a picture"), lambda temporary: whole.savefig(temporary, format="png"))
