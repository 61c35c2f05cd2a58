"""What a training logged, as curves: which metrics, and their picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from plasticity_env.common.errors import InputError
from plasticity_env.plots.charts import save_png
from plasticity_env.plots.visualize import visualize_training_metrics

CURVES = {
    "episode/return": "return of an episode",
    "episode/ppl": "perplexity at an episode's end",
    "episode/flops_kept": "FLOPs kept (share of dense)",
    "loss/policy": "policy loss",
    "loss/value": "value loss",
    "loss/entropy": "entropy of the policy (nats)",
    "loss/approx_kl": "approximate KL per update (nats)",
}


def curves_of(rows: list[dict[str, Any]]) -> dict[str, tuple[list[int], list[float]]]:
    """The learning curves that the rows hold.

    Args:
        rows: Rows of ``metrics.jsonl``.

    Returns:
        Metric name to steps and values, for the metrics of ``CURVES`` that occur; null is NaN, a gap in the line.
    """
    curves = {}
    for name in CURVES:
        held = [row for row in rows if name in row]
        if held:
            values = [float("nan") if row[name] is None else float(row[name]) for row in held]
            curves[name] = [int(row["global_step"]) for row in held], values
    return curves


def learning_curve_png(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw what the training logged, a panel a metric.

    Args:
        rows: Rows of ``metrics.jsonl``.
        path: The picture, 1600x1000 pixels.

    Raises:
        InputError: No row holds a metric of a learning curve.
    """
    curves = curves_of(rows)
    if not curves:
        raise InputError(f"no row holds one of {', '.join(CURVES)}: there is no learning curve to draw")
    shown = {CURVES[name]: (np.array(steps, float), np.array(values)) for name, (steps, values) in curves.items()}
    figure = visualize_training_metrics(shown, title="", xlabel="environment steps")
    figure.set_size_inches(1600 / figure.dpi, 1000 / figure.dpi)
    save_png(figure, path)
