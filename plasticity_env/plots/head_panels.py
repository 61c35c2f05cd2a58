"""Panels with a cell for each head: layers go down, heads go right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from plasticity_env.common.errors import InputError
from plasticity_env.plots.tensor_image import new_figure, to_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from matplotlib.patches import Patch

DECISIONS = {  # what a head is after a decision, and its colour
    "stays active": "#3b7fae",
    "pruned before": "#d9dad7",
    "pruned now": "#d55e00",
    "revived": "#b795ea",
    "grown": "#2fa37e",
}


def head_figure(shape: tuple[int, ...], panels: int, stacked: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure with panels sized for (layers, heads), side by side or, for narrow pages, one below the other."""
    layers, heads = shape
    width = min(16.0, max(4.6, 0.52 * heads + 2.2))
    height = min(20.0, max(2.8, 0.42 * layers + 1.7))
    rows, columns = (panels, 1) if stacked else (1, panels)
    figure = new_figure(width * columns, height * rows)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def head_axes(panel: Axes, shape: tuple[int, ...]) -> None:
    """Name the axes, layers down and heads right, one tick each where there is room."""
    from matplotlib.ticker import MaxNLocator

    panel.set_xlabel("head")
    panel.set_ylabel("layer")
    panel.set_xlim(-0.5, shape[1] - 0.5)
    panel.set_ylim(shape[0] - 0.5, -0.5)
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=32, integer=True, min_n_ticks=1))
    panel.tick_params(length=2, labelsize=9)


def draw_grid(panel: Axes, shape: tuple[int, ...]) -> None:
    """White lines between the cells."""
    panel.set_xticks(np.arange(shape[1] + 1) - 0.5, minor=True)
    panel.set_yticks(np.arange(shape[0] + 1) - 0.5, minor=True)
    panel.grid(which="minor", color="white", linewidth=1.2)
    panel.tick_params(which="minor", length=0)
    panel.spines[:].set_visible(False)


def draw_crosses(panel: Axes, mask: np.ndarray) -> None:
    """A cross in the upper right corner of each cell, clear of the number."""
    layers, heads = mask.nonzero()
    for width, size, colour in ((3.4, 7.5, "white"), (1.6, 6.0, "black")):
        panel.plot(heads + 0.34, layers - 0.3, "x", color=colour, markersize=size, markeredgewidth=width)


def draw_outlines(panel: Axes, mask: np.ndarray, colour: str) -> None:
    """A frame around each cell where the mask is True."""
    from matplotlib.patches import Rectangle

    for layer, head in zip(*mask.nonzero(), strict=True):
        box = Rectangle((head - 0.45, layer - 0.45), 0.9, 0.9, fill=False, edgecolor=colour, linewidth=2.0)
        panel.add_patch(box)


def draw_decisions(panel: Axes, states: np.ndarray) -> None:
    """Cells (L, H) in the colours of what they are after a decision: places in `DECISIONS`."""
    from matplotlib.colors import ListedColormap

    panel.imshow(states, cmap=ListedColormap(list(DECISIONS.values())), vmin=-0.5, vmax=4.5, aspect="auto")
    _few_ticks(panel, states.shape)
    draw_grid(panel, states.shape)


def decision_legend(names: Iterable[str], counts: Mapping[str, int] | None = None) -> list[Patch]:
    """What the colours of decisions mean, and how many heads each stands for."""
    from matplotlib.patches import Patch

    said = {name: f"{name} ({counts[name]})" if counts else name for name in names}
    return [Patch(facecolor=DECISIONS[name], edgecolor="#888", label=text) for name, text in said.items()]


def small_map(panel: Axes, grid: np.ndarray, active: np.ndarray, grids: Sequence[np.ndarray], log: bool) -> AxesImage:
    """Draw one of several (L, H) grids whose colours mean the same, pruned heads crossed out; returns its image."""
    from matplotlib.colors import LogNorm, Normalize

    known = np.concatenate([each[np.isfinite(each)] for each in grids])
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    norm = Normalize(min(0.0, low), high if high > min(0.0, low) else low + 1.0)
    if log:
        norm = LogNorm(max(float(known[known > 0].min()), high * 1e-6), high)
    image = panel.imshow(grid, cmap="Blues", norm=norm, aspect="auto")
    layers, heads = np.nonzero(~active)
    panel.scatter(heads, layers, marker="x", color="#c24a00", s=26 if max(grid.shape) <= 8 else 12, linewidths=1.2)
    _few_ticks(panel, grid.shape)
    return image


def _few_ticks(panel: Axes, shape: tuple[int, ...]) -> None:
    for axis, count in ((panel.xaxis, shape[1]), (panel.yaxis, shape[0])):
        axis.set_ticks(range(0, count, max(1, -(-count // 6))))
    panel.tick_params(labelsize=7)


def head_values(values: Any, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Values of heads as an (L, H) array.

    Raises:
        InputError: Another shape than (layers, heads), or than the one wanted.
    """
    array = to_array(values)
    if array.ndim != 2 or not array.size or (shape is not None and array.shape != shape):
        wanted = "(layers, heads)" if shape is None else str(shape)
        raise InputError(f"values of heads must be {wanted}, got {array.shape}")
    return array


def head_mask(mask: Any, name: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """A mask of heads as a boolean (L, H) array.

    Raises:
        InputError: Another type or shape; ``name`` says which mask.
    """
    array = mask.detach().cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)
    if array.dtype != bool or array.ndim != 2 or (shape is not None and array.shape != shape):
        wanted = "(layers, heads)" if shape is None else str(shape)
        raise InputError(f"the mask {name!r} must be boolean {wanted}, got {array.dtype} {array.shape}")
    return array


def marked_heads(heads: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Heads as a boolean (L, H) array, from such a mask or from (layer, head) pairs.

    Raises:
        InputError: A head that is not there, or a mask of another shape.
    """
    if isinstance(heads, Tensor) or (isinstance(heads, np.ndarray) and heads.ndim == 2 and heads.dtype == bool):
        return head_mask(heads, "pruned_heads", shape)
    mask = np.zeros(shape, dtype=bool)
    for pair in heads:
        layer, head = (int(index) for index in pair)
        if not (0 <= layer < shape[0] and 0 <= head < shape[1]):
            raise InputError(
                f"there is no head {head} in layer {layer}: layers are 0 to {shape[0] - 1}, heads 0 to {shape[1] - 1}"
            )
        mask[layer, head] = True
    return mask
