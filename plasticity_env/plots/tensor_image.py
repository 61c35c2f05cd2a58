"""Any tensor as a picture: whatever its device, type, gradient or shape, and with what is not finite in view."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from plasticity_env.common.errors import InputError
from plasticity_env.plots.charts import save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

COLOURS = "viridis"  # perceptual, and told apart by the colour-blind
MISSING = "#c8c8c8"
LARGEST = 4096  # rows or columns; nobody sees more


def to_array(values: Any) -> np.ndarray:
    """Numbers in any form as a float array on the CPU; booleans become 0 and 1, float64 stays double.

    Args:
        values: A tensor of any device and type, with or without gradient; an array; nested lists.

    Raises:
        InputError: Complex, sparse and quantised tensors, and what is no numbers at all.
    """
    try:
        if isinstance(values, torch.Tensor):
            tensor = values.detach()
            if tensor.is_complex() or tensor.is_quantized or tensor.layout != torch.strided:
                raise InputError(
                    f"a {tensor.dtype} tensor of layout {tensor.layout} is not a picture: take its abs() or to_dense()"
                )
            exact = tensor.dtype in (torch.float64, torch.int64, torch.int32)
            return tensor.to("cpu").to(torch.float64 if exact else torch.float32).numpy()
        array = np.asarray([to_array(v) for v in values] if isinstance(values, list | tuple) else values)
        if array.dtype.kind not in "bifu":
            raise InputError(f"an array of {array.dtype} is not a picture: give real numbers")
        return array if array.dtype == np.float32 else array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"these values are not a rectangular array of numbers ({error})") from error


def safe_tensor_imshow(
    tensor: Any,
    ax: Axes | str | None = None,
    *,
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
    label: str = "",
    cmap: str = COLOURS,
    vmin: float | None = None,
    vmax: float | None = None,
    colorbar: bool = True,
    annotate: bool = False,
    save_path: str | Path | None = None,
) -> Any:
    """Show a tensor as colours; what is not finite is grey, and the title says how much of it there is.

    Called as ``safe_tensor_imshow(tensor, "title")`` it draws on pyplot's current axes, as ``plt.imshow`` does, without a
    colour bar, and returns the image, which ``plt.colorbar`` takes.

    Args:
        tensor: A number, (N,) drawn as one row, (M, N), or (C, M, N): a panel each channel side by side; axes of size 1 in
            front are dropped. Any device and type, gradient or not.
        ax: Draw here instead of on a new figure; not with three axes. A title, where it is text.
        title, xlabel, ylabel: Title and labels of the axes.
        label: What the colours mean, beside the colour bar.
        cmap: A colour map of matplotlib.
        vmin, vmax: Ends of the colours; from the finite values when None.
        colorbar: Whether to draw one.
        annotate: Write the numbers into the cells, where they are large enough to hold them.
        save_path: Write the figure there as well, as PNG.

    Returns:
        The figure, outside pyplot's global state; with a title in the place of ``ax``, the image.

    Raises:
        InputError: Nothing to draw, too many axes, or values that are no real numbers.
    """
    on_current = isinstance(ax, str)
    if isinstance(ax, str):
        import matplotlib.pyplot as plt

        title, colorbar = ax, False
        ax = plt.gca()
    array = to_array(tensor)
    while array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    if not array.size or array.ndim > 3:
        raise InputError(
            f"values of shape {array.shape} are not a picture: give (N,), (M, N) or a few (M, N) as (C, M, N)"
        )
    if max(array.shape[-2:], default=1) > LARGEST or (array.ndim == 3 and len(array) > 64):
        raise InputError(
            f"values of shape {array.shape} are too many to be seen: cut them to {LARGEST} a side, 64 panels"
        )
    if array.ndim == 3 and ax is not None:
        raise InputError(f"values of shape {array.shape} make several panels, and there is one ax: pass one of them")
    finite = array[np.isfinite(array)]
    low = (float(finite.min()) if finite.size else 0.0) if vmin is None else vmin
    high = (float(finite.max()) if finite.size else 1.0) if vmax is None else vmax
    panels = array if array.ndim == 3 else array.reshape((1, *np.atleast_2d(array).shape))  # (C, M, N)
    figure: Figure | SubFigure
    if ax is None:
        figure, axes = _panels(panels)
    else:
        figure, axes = ax.figure, [ax]
    for index, (panel, drawn) in enumerate(zip(axes, panels, strict=False)):
        image = _draw(panel, drawn, cmap, low, high, annotate)
        name = title if array.ndim < 3 else f"{title} [{index}]".strip()
        panel.set_title(" ".join(filter(None, [name, missing_note(drawn)])), loc="left", fontsize=10)
        panel.set_xlabel(xlabel)
        panel.set_ylabel(ylabel)
        if array.ndim < 2:
            panel.set_yticks([])
    if colorbar:
        tall = max(1.0, figure.bbox.height / figure.bbox.width)
        figure.colorbar(image, ax=axes, label=label, shrink=0.9, pad=0.02, aspect=20 * tall)
    if save_path is not None:
        save_png(figure, save_path)
    return image if on_current else figure


def missing_note(array: np.ndarray) -> str:
    """How many values are not finite, in words; empty where all are."""
    nan, infinite = int(np.isnan(array).sum()), int(np.isinf(array).sum())
    said = [f"{nan} NaN"] * (nan > 0) + [f"{infinite} infinite"] * (infinite > 0)
    return f"({', '.join(said)}: grey)" if said else ""


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, inches, outside pyplot's global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def _panels(panels: np.ndarray) -> tuple[Figure, list[Axes]]:
    columns = math.ceil(math.sqrt(len(panels)))
    rows = math.ceil(len(panels) / columns)
    share = min(3.0, max(0.12, panels.shape[1] / panels.shape[2]))
    side = 6.4 if len(panels) == 1 else 2.6
    figure = new_figure(columns * side + 0.8, min(40.0, rows * (side * share + 0.7) + 0.4))
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in axes[len(panels) :]:
        panel.set_visible(False)
    return figure, axes[: len(panels)]


def _draw(panel: Axes, values: np.ndarray, cmap: str, low: float, high: float, annotate: bool) -> Any:
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator

    if cmap not in colormaps:
        raise InputError(f"matplotlib has no colour map {cmap!r}: {COLOURS!r}, 'magma' and 'cividis' are good ones")
    colours = colormaps[cmap].with_extremes(bad=MISSING)
    shown = np.ma.masked_invalid(values)
    image = panel.imshow(shown, cmap=colours, vmin=low, vmax=high, aspect="auto", interpolation="nearest")
    panel.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
    panel.yaxis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
    panel.spines[:].set_visible(False)
    if annotate:
        box, points = panel.get_window_extent(), 72 / panel.figure.dpi
        size = min(9.0, box.width * points / values.shape[1] / 3, box.height * points / values.shape[0] * 0.7)
        for (row, column), value in np.ndenumerate(values if size >= 4 else values[:0]):
            text = number(float(value))
            red, green, blue, _ = image.cmap(image.norm(value)) if np.isfinite(value) else (1.0, 1.0, 1.0, 1.0)
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            panel.text(column, row, text, ha="center", va="center", fontsize=size, color="white" if dark else "black")
    return image


def number(value: float) -> str:
    """A number in few characters, for a cell."""
    if not math.isfinite(value):
        return str(value)
    if value == 0 or 0.01 <= abs(value) < 1000:
        return f"{value:.3g}"
    return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
