"""The pictures of a run."""

from __future__ import annotations

from plasticity_env.experiment.record import RunRecord


def write_charts(record: RunRecord) -> None:
    """Write the pictures of a run."""
