"""A run in TensorBoard: scalars, pictures, and its arguments beside its last figures (HParams)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from plasticity_env.common.files import naming


class TensorBoardRun:
    """Event files, opened at the first row so that a resumed run can purge what it repeats.

    Args:
        folder: Where the event files lie.
        arguments: What was decided before the run, as strict JSON can hold it; shown by the HParams dashboard.
        resume: Whether the folder may hold rows that this run repeats.
    """

    def __init__(self, folder: Path, arguments: dict[str, Any], resume: bool) -> None:
        self._folder, self._arguments, self._resume = folder, arguments, resume
        self._purge_from: int | None = None
        self._last: dict[str, float] = {}
        self._writer: Any = None

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Write a row of scalars."""
        with naming(self._folder):
            for name, value in metrics.items():
                self._open(step).add_scalar(name, value, step)
        self._last |= metrics

    def picture(self, name: str, path: Path, step: int) -> None:
        """Show a picture."""
        import numpy as np
        from PIL import Image

        with Image.open(path) as image, naming(self._folder):
            self._open(step).add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def _open(self, step: int) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            purge = self._purge_from if self._purge_from is not None else step if self._resume else None
            self._writer = SummaryWriter(str(self._folder), purge_step=purge)
        return self._writer

    def rewind(self, step: int) -> None:
        """Forget every row after ``step``."""
        self._end()
        self._purge_from = step + 1

    def close(self) -> None:
        """End the run: HParams gets its arguments and the metrics that it logged."""
        if self._writer is not None and self._last:
            from torch.utils.tensorboard.summary import hparams

            with naming(self._folder):
                for part in hparams(shown_arguments(self._arguments), self._last):
                    self._writer.file_writer.add_summary(part)
        self._end()

    def _end(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            with naming(self._folder):
                writer.close()


def shown_arguments(values: dict[str, Any], inside: str = "") -> dict[str, bool | int | float | str]:
    """Arguments as HParams takes them: one level deep, named ``part/name``; what is no number, text or truth is text."""
    shown: dict[str, bool | int | float | str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            shown |= shown_arguments(value, f"{inside}{name}/")
        else:
            shown[inside + name] = value if isinstance(value, bool | int | float | str) else str(value)
    return shown
