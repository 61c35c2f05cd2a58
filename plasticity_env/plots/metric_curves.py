"""Metrics in the forms in which training hands them out, as curves to draw."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from plasticity_env.common.errors import InputError
from plasticity_env.common.metrics_logger import MetricsLogger, curves_of_rows
from plasticity_env.plots.charts import PALETTE
from plasticity_env.plots.tensor_image import to_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ARMS = {"control": "black"}  # lines that have the same colour in every panel
Curve = tuple[np.ndarray, np.ndarray]


def arms_of_metrics(metrics: Any) -> dict[str, dict[str, Curve]]:
    """Metric name to arm name to curve; one unnamed arm where arms were not given.

    Args:
        metrics: Metrics, as `visualize.visualize_training_metrics` takes them.

    Raises:
        InputError: Something else, or values that are no curve.
    """
    if isinstance(metrics, MetricsLogger):
        metrics = metrics.curves()
    if isinstance(metrics, Sequence) and not isinstance(metrics, str):
        rows = [dataclasses.asdict(row) if dataclasses.is_dataclass(row) else row for row in metrics]  # type: ignore[arg-type]
        rows = [row._asdict() if hasattr(row, "_asdict") else row for row in rows]
        if not all(isinstance(row, Mapping) for row in rows):
            raise InputError("rows of metrics must be mappings or dataclasses; values need a name: {'loss': [...]}")
        step = "global_step" if any("global_step" in row for row in rows) else "step"
        curves = curves_of_rows([dict(row) for row in rows], step)
        metrics = {name: curve for name, curve in curves.items() if np.isfinite(curve[1]).any()}
    if not isinstance(metrics, Mapping):
        raise InputError(f"metrics must be names with values, a MetricsLogger or rows, got {type(metrics).__name__}")
    found = {}
    for name, given in metrics.items():
        arms = given if isinstance(given, Mapping) else {"": given}
        found[str(name)] = {str(arm): _curve(name, values) for arm, values in arms.items()}
    return found


def _curve(name: str, values: Any) -> Curve:
    if isinstance(values, tuple) and len(values) == 2 and all(hasattr(part, "__len__") for part in values):
        steps, heights = to_array(values[0]), to_array(values[1])
    else:
        heights = to_array(values)
        steps = np.arange(heights.size, dtype=float)
    if heights.ndim != 1 or steps.shape != heights.shape or not heights.size:
        raise InputError(f"metric {name!r} must be a list of numbers or (steps, values), got shape {heights.shape}")
    return steps, heights


def arm_colours(metrics: Mapping[str, Mapping[str, Curve]]) -> dict[str, str]:
    """One colour an arm, the same in every panel."""
    names = [name for name in dict.fromkeys(arm for arms in metrics.values() for arm in arms) if name not in ARMS]
    return ARMS | {name: PALETTE[index % len(PALETTE)] for index, name in enumerate(names)}


def draw_metric(
    panel: Axes, name: str, arms: Mapping[str, Curve], colours: Mapping[str, str], events: Mapping[float, str]
) -> None:
    """Draw one metric's arms in their colours, with what happened on the way."""
    few = all(len(steps) <= 60 for steps, _ in arms.values())
    for arm, (steps, values) in arms.items():
        colour = colours[arm]
        style = "--" if arm in ARMS else "-"
        panel.plot(steps, values, style, color=colour, linewidth=1.4, marker="." if few else None, label=arm)
    heights = np.concatenate([values[np.isfinite(values)] for _, values in arms.values()])
    if heights.size and heights.min() > 0 and heights.max() > 50 * heights.min():
        panel.set_yscale("log")
    gaps = sum(int((~np.isfinite(values)).sum()) for _, values in arms.values())
    panel.set_title(name + (f" ({gaps} not finite: gaps)" if gaps else ""), loc="left", fontsize=10)
    left, right = panel.get_xlim()
    for step, words in events.items():
        late = step > left + 0.8 * (right - left)
        panel.axvline(step, color=PALETTE[1], linewidth=0.9, linestyle=":")
        panel.annotate(
            words,
            (step, 0.98),
            xycoords=("data", "axes fraction"),
            xytext=(-3 if late else 3, 0),
            textcoords="offset points",
            ha="right" if late else "left",
            fontsize=8,
            color="#a04300",
            va="top",
        )
    if any(arms):
        panel.legend(frameon=False, fontsize=8)
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
