"""Pictures of the plasticity cycle: heads by layer, what was decided about them, how training went, what heads look at.

Each function returns a matplotlib ``Figure`` outside pyplot's global state; in a notebook, after ``%matplotlib inline``, the
last expression of a cell shows it. Layers go down, heads go right, always.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor, nn

from plasticity_env.common.errors import InputError
from plasticity_env.model.attention_maps import attention_maps
from plasticity_env.plots.charts import fitted, put_title, save_png
from plasticity_env.plots.head_panels import (
    DECISIONS,
    decision_legend,
    draw_crosses,
    draw_decisions,
    draw_outlines,
    head_axes,
    head_figure,
    head_mask,
    head_values,
    marked_heads,
)
from plasticity_env.plots.metric_curves import arm_colours, arms_of_metrics, draw_metric
from plasticity_env.plots.tensor_image import (
    MISSING,
    missing_note,
    new_figure,
    safe_tensor_imshow,
    to_array,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_CELLS = 320  # more cells hold no numbers
_MOST_PANELS = 96


def visualize_head_entropy(
    entropy: Any,
    *,
    active: Any = None,
    normalized: bool = False,
    title: str = "Attention entropy of each head",
    save_path: str | Path | None = None,
) -> Figure:
    """Draw the entropy of every head as a heat map.

    Args:
        entropy: (L, H), as `calculate_head_entropy` returns it.
        active: (L, H) boolean; heads that are not active are marked with a cross.
        normalized: Entropy is a share of the largest possible, not in nats; colours then run from 0 to 1.
        title: Above the picture.
        save_path: Write a PNG there as well.

    Returns:
        The figure.

    Raises:
        InputError: Values that are not (L, H).
    """
    label = "entropy (share of maximum)" if normalized else "entropy (nats)"
    ends = (0.0, 1.0) if normalized else (0.0, None)
    return _head_map(entropy, active, title, label, "viridis", ends, save_path)


def visualize_head_gradients(
    gradients: Any,
    *,
    active: Any = None,
    pruned_heads: Any = None,
    kind: Literal["weight", "gate"] = "weight",
    title: str = "How much the loss depends on each head",
    save_path: str | Path | None = None,
) -> Figure:
    """Draw the gradient of every head as a heat map.

    Args:
        gradients: (L, H), as `calculate_head_gradients` returns it.
        active: (L, H) boolean; heads that are not active are marked with a cross.
        pruned_heads: The same the other way round: (layer, head) pairs, or (L, H) boolean, True for the heads to mark.
        kind: What was measured, for the colour bar.
        title: Above the picture.
        save_path: Write a PNG there as well.

    Returns:
        The figure.

    Raises:
        InputError: Values that are not (L, H), a head that is not there, or both ``active`` and ``pruned_heads``.
    """
    label = "norm of weight gradient" if kind == "weight" else "mean |dL/dgate| (nats)"
    if pruned_heads is not None:
        if active is not None:
            raise InputError("active and pruned_heads say the same of each head: pass one of them")
        active = ~marked_heads(pruned_heads, head_values(gradients).shape)
    return _head_map(gradients, active, title, label, "magma", (0.0, None), save_path)


def visualize_pruning_decisions(
    decided: Any,
    pruned: Any = None,
    *,
    values: Any = None,
    active: Any = None,
    revived: Any = None,
    grown: Any = None,
    value_label: str = "what decided",
    title: str = "What was decided about each head",
    save_path: str | Path | None = None,
) -> Figure:
    """Draw what a decision does to every head, beside what it was decided by.

    Args:
        decided: (L, H) boolean, True for the heads that are pruned now; or, where ``pruned`` says that, the values that
            the decision was made by.
        pruned: (L, H) boolean or (layer, head) pairs, the heads that are pruned now.
        values: (L, H) that the decision was made by, drawn to the left; None leaves it out.
        active: (L, H) boolean, the heads that were active before; None is all.
        revived, grown: (L, H) boolean, True for the heads that come back with old or with new weights.
        value_label: What the values are.
        title: Above the picture.
        save_path: Write a PNG there as well.

    Returns:
        The figure.

    Raises:
        InputError: Masks of different shapes, or of other types than boolean.
    """
    if pruned is None:
        pruned = head_mask(decided, "pruned")
    elif values is not None:
        raise InputError("the values come first, before the mask: leave values= out")
    else:
        values = decided
        pruned = marked_heads(pruned, head_values(values).shape)
    shape = pruned.shape
    before = np.ones(shape, bool) if active is None else head_mask(active, "active", shape)
    states = np.where(before, 0, 1)
    for index, mask in ((2, pruned), (3, revived), (4, grown)):
        if mask is not None:
            states[head_mask(mask, list(DECISIONS)[index], shape)] = index
    figure, panels = head_figure(shape, 1 if values is None else 2)
    if values is not None:
        shown = head_values(values, shape)
        numbers = shown.size <= _MOST_CELLS
        safe_tensor_imshow(shown, panels[0], title=value_label, cmap="viridis", annotate=numbers)
        draw_outlines(panels[0], pruned, DECISIONS["pruned now"])
        head_axes(panels[0], shape)
    panel = panels[-1]
    draw_decisions(panel, states)
    head_axes(panel, shape)
    after = np.isin(states, (0, 3, 4)).sum(1)
    for layer, count in enumerate(after):
        words = f"{count} of {shape[1]}"
        panel.annotate(words, (1.015, layer), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    panel.set_title(f"{int(after.sum())} of {states.size} heads active afterwards", loc="left", fontsize=10)
    counts = {name: int((states == index).sum()) for index, name in enumerate(DECISIONS)}
    handles = decision_legend([name for name, count in counts.items() if count], counts)
    room = max(2, int(figure.bbox.width / figure.dpi / 1.6))  # entries of a line
    figure.legend(handles=handles, loc="outside lower center", ncols=min(room, len(handles)), frameon=False, fontsize=9)
    return _finish(figure, title, save_path)


def visualize_training_metrics(
    metrics: Any,
    *,
    names: Sequence[str] | None = None,
    events: Mapping[float, str] | None = None,
    title: str = "Training",
    xlabel: str = "step",
    save_path: str | Path | None = None,
) -> Figure:
    """Draw what training logged, a panel a metric.

    Args:
        metrics: Metric name to values, to ``(steps, values)``, or to a mapping of arm names to one of these (the arms share
            a panel); or a `MetricsLogger`; or rows, mappings or dataclasses as `PlasticityTrainer.run` returns them.
        names: These metrics only, in this order; None is all that vary.
        events: Step to what happened there, marked in every panel.
        title: Above the picture.
        xlabel: What the steps count.
        save_path: Write a PNG there as well.

    Returns:
        The figure.

    Raises:
        InputError: Nothing to draw, or a name that was not logged.
    """
    panels_of = arms_of_metrics(metrics)
    if names is not None:
        missing = [name for name in names if name not in panels_of]
        if missing:
            raise InputError(f"no metric {missing[0]!r} was logged: there are {', '.join(panels_of) or 'none'}")
        panels_of = {name: panels_of[name] for name in names}
    if not panels_of:
        raise InputError("there is no metric to draw: pass names and values, a MetricsLogger, or rows of numbers")
    columns = min(len(panels_of), 2 if len(panels_of) in (2, 4) else 3)
    rows = math.ceil(len(panels_of) / columns)
    figure = new_figure(max(6.0, 4.4 * columns), 3.0 * rows + 0.7)
    panels, colours = list(figure.subplots(rows, columns, squeeze=False).flat), arm_colours(panels_of)
    for panel, (name, arms) in zip(panels, panels_of.items(), strict=False):
        draw_metric(panel, name, arms, colours, events or {})
        panel.set_xlabel(xlabel, fontsize=9)
    for panel in panels[len(panels_of) :]:
        panel.set_visible(False)
    return _finish(figure, title, save_path)


def visualize_attention_patterns(
    attention: Any,
    input_ids: Tensor | None = None,
    *,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    tokens: Sequence[str] | None = None,
    active: Any = None,
    sequence: int = 0,
    title: str = "What each head attends to",
    save_path: str | Path | None = None,
) -> Figure:
    """Draw which keys the queries of heads attend to, a panel a head; colours follow the square root of the weight.

    Args:
        attention: A model (with ``input_ids``); or weights of shape (T, T), (H, T, T), (L, H, T, T) or (B, L, H, T, T); or
            a sequence of (B, H, T, T), one a layer, as ``output_attentions=True`` gives them.
        input_ids: (T,) or (B, T), where ``attention`` is a model.
        layers, heads: Layers and heads to show; None shows all (evenly chosen ones where there are too many to be
            seen).
        tokens: (T,) words for the axes, written where there is room.
        active: (L, H) boolean, names the pruned heads; a `PlasticModel` knows it.
        sequence: Number of the sequence among the B.
        title: Above the picture.
        save_path: Write a PNG there as well.

    Returns:
        The figure.

    Raises:
        InputError: A model without text, weights of another shape, or a layer or head that is not there.
    """
    if isinstance(attention, nn.Module):
        if input_ids is None:
            raise InputError("a model needs text to attend to: pass input_ids, (tokens,) or (sequences, tokens)")
        if active is None and hasattr(attention, "active"):
            active = attention.active[:, : attention.heads]  # type: ignore[index]
        attention = attention_maps(attention, input_ids)
    maps = _attention_of(attention, sequence)  # (L, H, T, T)
    depth, width, size = maps.shape[:3]
    open_heads = np.ones((depth, width), bool) if active is None else head_mask(active, "active", (depth, width))
    columns = _chosen(heads, width, "head", 12)
    rows = _chosen(layers, depth, "layer", max(1, _MOST_PANELS // len(columns)))
    words_of = [
        token if token.strip() else token.replace(" ", "\u2423").replace("\n", "\u21b5") for token in tokens or ()
    ]
    if words_of and len(words_of) != size:
        raise InputError(f"{len(words_of)} words do not name {size} tokens")
    side = max(1.05, min(4.5, 11.0 / len(columns)))
    figure = new_figure(len(columns) * side + 1.2, len(rows) * (side + 0.12) + 0.9)
    panels = figure.subplots(len(rows), len(columns), squeeze=False)
    for row, layer in enumerate(rows):
        for column, head in enumerate(columns):
            panel = panels[row, column]
            image = _draw_pattern(panel, maps[layer, head], open_heads[layer, head])
            words = f"layer {layer}, head {head}" if side > 1.7 else f"{layer}.{head}"
            words += "" if open_heads[layer, head] else " pruned"
            panel.set_title(" ".join([words, missing_note(maps[layer, head])]).strip(), loc="left", fontsize=8, pad=2)
            if words_of and side > 1.7 and size <= 40:
                panel.set_xticks(range(size), words_of, rotation=90)
                panel.set_yticks(range(size), words_of)
                panel.tick_params(labelsize=7)
            elif (row, column) != (len(rows) - 1, 0):
                panel.set_xticks([])
                panel.set_yticks([])
    panels[-1, 0].set_xlabel("key", fontsize=8)
    panels[-1, 0].set_ylabel("query", fontsize=8)
    panels[-1, 0].tick_params(labelsize=7)
    figure.colorbar(image, ax=panels, label="attention weight", shrink=min(1.0, 4.0 / (len(rows) * side)), pad=0.02)
    whole = len(columns) == width and len(rows) == depth
    words = f"{title} (layer.head)" if side <= 1.7 else title
    return _finish(
        figure, words if whole else f"{words}: {len(rows) * len(columns)} of {depth * width} heads", save_path
    )


# -- parts ---------------------------------------------------------------------------------------------------------------


def _head_map(
    values: Any,
    active: Any,
    title: str,
    label: str,
    cmap: str,
    ends: tuple[float | None, float | None],
    save_path: str | Path | None,
) -> Figure:
    shown = head_values(values)
    figure, (panel,) = head_figure(shown.shape, 1)
    numbers = shown.size <= _MOST_CELLS
    safe_tensor_imshow(shown, panel, label=label, cmap=cmap, vmin=ends[0], vmax=ends[1], annotate=numbers)
    note = panel.get_title(loc="left")
    if active is not None:
        closed = ~head_mask(active, "active", shown.shape)
        draw_crosses(panel, closed)
        note = " ".join(filter(None, [f"{int(closed.sum())} of {closed.size} heads pruned (\u00d7)", note]))
    panel.set_title(fitted(note, figure.get_figwidth() - 1.6, 9), loc="left", fontsize=9)
    head_axes(panel, shown.shape)
    return _finish(figure, title, save_path)


def _attention_of(attention: Any, sequence: int) -> np.ndarray:
    """(L, H, T, T) of one sequence."""
    layered = isinstance(attention, list | tuple)
    array = np.stack([to_array(layer) for layer in attention], 1) if layered else to_array(attention)
    if array.ndim == 5:
        if not 0 <= sequence < len(array):
            raise InputError(f"there is no sequence {sequence}: the weights hold {len(array)}")
        array = array[sequence]
    if array.ndim < 2 or array.ndim > 4 or array.shape[-1] != array.shape[-2] or not array.size:
        raise InputError(
            f"attention weights must be (T, T), (H, T, T), (L, H, T, T) or (B, L, H, T, T), got {array.shape}"
        )
    return array.reshape((1,) * (4 - array.ndim) + array.shape)


def _chosen(wanted: Sequence[int] | None, there: int, kind: str, most: int) -> list[int]:
    if wanted is None:
        return sorted({round(index) for index in np.linspace(0, there - 1, min(there, most))})
    wrong = [index for index in wanted if not 0 <= index < there]
    if wrong or not len(wanted):
        raise InputError(f"there is no {kind} {wrong[0] if wrong else 'chosen'}: give some of 0 to {there - 1}")
    return list(wanted)


def _draw_pattern(panel: Axes, weights: np.ndarray, is_open: bool) -> Any:
    from matplotlib import colormaps
    from matplotlib.colors import PowerNorm

    causal = not np.triu(weights, 1).any()
    seen = np.tril(np.ones(weights.shape)) if causal else np.ones(weights.shape)
    return panel.imshow(
        np.ma.masked_invalid(weights),
        cmap=colormaps["viridis"].with_extremes(bad=MISSING),
        norm=PowerNorm(0.5, 0.0, 1.0),
        alpha=seen * (1.0 if is_open else 0.35),
        interpolation="nearest",
    )


def _finish(figure: Figure, title: str, save_path: str | Path | None) -> Figure:
    put_title(figure, title)
    if save_path is not None:
        save_png(figure, save_path)
    return figure


__all__ = [
    "safe_tensor_imshow",
    "visualize_attention_patterns",
    "visualize_head_entropy",
    "visualize_head_gradients",
    "visualize_pruning_decisions",
    "visualize_training_metrics",
]
