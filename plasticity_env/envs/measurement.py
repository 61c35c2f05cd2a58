"""What a workbench is asked, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from plasticity_env.signals.measure import HeadSignals

Indices = tuple[int, ...]


@dataclass(frozen=True)
class Request:
    """A mask to measure.

    Attributes:
        active: (L, U) boolean.
        calibration: Blocks that score and repair.
        reward: Blocks that pay.
    """

    active: Tensor
    calibration: Indices
    reward: Indices


@dataclass(frozen=True)
class Measurement:
    """What a state of the model is worth: signals on the calibration batch, loss (and KL, and time) on the reward batch."""

    signals: HeadSignals
    loss: float
    kl: float | None
    time_kept: float | None = None
