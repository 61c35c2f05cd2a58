"""The warm-up of a grown head's gate."""

from __future__ import annotations

from dataclasses import dataclass

from plasticity_env.common.errors import InputError


@dataclass(frozen=True)
class WarmupSchedule:
    """scale(t) = s0 + (1 - s0) min(1, t / W): what multiplies a grown head's output after t training steps.

    `PlasticModel.advance_warmup` moves the gate along this line; the schedule says where it is.

    Attributes:
        initial_scale: s0, in (0, 1].
        warmup_steps: W; 0 opens the gate at once.
    """

    initial_scale: float
    warmup_steps: int

    def __post_init__(self) -> None:
        if not 0 < self.initial_scale <= 1:
            raise InputError(f"initial_scale {self.initial_scale} is outside (0, 1]; 0.01 is usual")
        if isinstance(self.warmup_steps, bool) or not isinstance(self.warmup_steps, int) or self.warmup_steps < 0:
            raise InputError(f"warmup_steps must be a whole number of at least 0, got {self.warmup_steps!r}")

    def __call__(self, step: int) -> float:
        """The gate's scale after ``step`` training steps.

        Raises:
            InputError: The step is negative.
        """
        if step < 0:
            raise InputError(f"step {step} is negative: steps are counted from growth on")
        if self.warmup_steps == 0:
            return 1.0
        return self.initial_scale + (1 - self.initial_scale) * min(1.0, step / self.warmup_steps)
