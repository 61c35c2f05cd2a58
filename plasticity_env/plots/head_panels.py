"""Panels with a cell for each head: layers go down, heads go right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from plasticity_env.common.errors import InputError
from plasticity_env.plots.tensor_image import new_figure, to_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def head_figure(shape: tuple[int, ...], panels: int) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side, sized for (layers, heads)."""
    layers, heads = shape
    width = min(16.0, max(4.6, 0.52 * heads + 2.2))
    figure = new_figure(width * panels, min(20.0, max(2.8, 0.42 * layers + 1.7)))
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


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
