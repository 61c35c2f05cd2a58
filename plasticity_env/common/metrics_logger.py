"""MetricsLogger: the numbers of a run in a folder, and back again as curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from plasticity_env.common.digests import read_rows
from plasticity_env.common.tracking import Tracker, TrackingOptions
from plasticity_env.common.values import user_path

Curves = dict[str, tuple[list[int], list[float]]]


class MetricsLogger(Tracker):
    """A `Tracker` that knows what it logged: ``log(metrics, step)`` appends a row, ``curves()`` hands all back.

    Args:
        folder: The run's folder (``metrics.jsonl``, ``config.json``); made if missing.
        config: What was decided before the run.
        tensorboard: Write TensorBoard events as well.
        track: Log to Weights & Biases as well.
        resume: Go on with the run that the folder holds.

    Raises:
        InputError: The folder holds a run and ``resume`` is false, or W&B cannot start.

    Example::

        with MetricsLogger("runs/mine") as logger:
            logger.log({"loss": 3.2, "perplexity": 24.5}, step=10)
        visualize_training_metrics(logger.curves())
    """

    def __init__(
        self,
        folder: str | Path,
        config: dict[str, Any] | None = None,
        *,
        tensorboard: bool = False,
        track: bool = False,
        resume: bool = False,
    ) -> None:
        options = TrackingOptions(track=track, tensorboard=tensorboard)
        super().__init__(user_path(folder, "a run folder"), config or {}, options, resume)

    def curves(self) -> Curves:
        """Every metric's steps and values, as logged; what was no number (null in the file) is NaN."""
        return curves_of_rows(self.rows())

    def rows(self) -> list[dict[str, Any]]:
        """The rows as they are on disk, each with its ``global_step``.

        Raises:
            InputError: A line is not what was logged.
        """
        return read_rows(self.rows_path)


def curves_of_rows(rows: list[dict[str, Any]], step: str = "global_step") -> Curves:
    """Turn rows of metrics into curves.

    Args:
        rows: Mappings of names to numbers; a row need not hold every metric.
        step: The entry that says when; a row without it counts by its position.

    Returns:
        Metric name to steps and values; null is NaN, entries that are no numbers are left out.
    """
    curves: Curves = {}
    for position, row in enumerate(rows):
        for name, value in row.items():
            if name == step or isinstance(value, bool) or not (value is None or isinstance(value, int | float)):
                continue
            steps, values = curves.setdefault(name, ([], []))
            steps.append(int(row.get(step, position)))
            values.append(float("nan") if value is None else float(value))
    return curves
