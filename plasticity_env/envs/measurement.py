"""What a workbench is asked, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from plasticity_env.signals.measure import HeadSignals
from plasticity_env.signals.moment_files import MomentFiles

Indices = tuple[int, ...]


@dataclass(frozen=True)
class Request:
    """A mask to measure.

    Attributes:
        active: (L, U) boolean.
        calibration: Blocks that score.
        reward: Numbers of the reward blocks.
        moments: Calibration blocks that repairs and projectors are fitted on, forward only; empty: those that score.
    """

    active: Tensor
    calibration: Indices
    reward: Indices
    moments: Indices = ()

    @property
    def fitted(self) -> Indices:
        """Blocks that repairs and projectors are fitted on."""
        return self.moments or self.calibration


@dataclass(frozen=True)
class Reading:
    """How a workbench reads calibration text.

    Attributes:
        apart: Repairs and projectors are fitted on blocks of their own, so that all residual scores are held out.
        sampled: Slopes are taken of tokens that the model draws, not of the text's own.
        files: Keep the moments of texts on disk; None for none.
    """

    apart: bool = False
    sampled: bool = False
    files: MomentFiles | None = None


@dataclass(frozen=True)
class Measurement:
    """What a state of the model is worth: signals on the calibration batch, loss (and KL, and time) on the reward batch."""

    signals: HeadSignals
    loss: float
    kl: float | None
    time_kept: float | None = None
