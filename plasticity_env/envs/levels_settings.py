"""Arguments of plasticity/Levels-v0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from plasticity_env.common.errors import InputError, unknown
from plasticity_env.common.values import brief
from plasticity_env.envs.settings import Settings

ACTIONS = ("scores", "levels")


@dataclass(frozen=True)
class LevelsSettings(Settings):
    """All arguments of ``plasticity/Levels-v0``: those of `plasticity_env.envs.settings.Settings`, but for what is said here.

    The model is frozen (``train_steps`` is 0), and ``max_sparsity``, which counts units, stays at 1: how much goes is what
    ``pruned_share`` says, in FLOPs. ``calibration_blocks`` are at least 2, unless there are ``moment_blocks``.

    Attributes:
        pruned_share: Share of the FLOPs of all units that is pruned when the horizon is over: a number, or a range sampled
            uniformly at reset.
        max_sparsity: 1.
        action: scores (a number for each unit), or levels (a whole number for each site).
        exact: Whether every choice of levels prunes exactly the most FLOPs that levels can reach within the share. Where heads
            and blocks cost numbers of FLOPs without a large common divisor, few choices do; False allows all that prune less
            by less than the cheapest unit.
    """

    max_sparsity: float = 1.0
    action: str = "scores"
    exact: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.action not in ACTIONS:
            raise unknown("action", self.action, ACTIONS)
        if not isinstance(self.exact, bool):
            raise InputError(f"exact must be True or False, got {brief(self.exact)}")
        if self.max_sparsity != 1:
            raise InputError(
                f"max_sparsity {brief(self.max_sparsity)} counts units, and Levels counts FLOPs: leave it out, and say "
                "pruned_share"
            )
        if self.train_steps:
            raise InputError(
                f"train_steps {self.train_steps} would change what levels are priced on: use train_steps=0, or Heads-v1"
            )
        if self.calibration_blocks < 2 and not self.moment_blocks:
            raise InputError(
                "levels are priced on text that repairs are not fitted on: use calibration_blocks of at least 2, or moment_blocks"
            )

    def check_share(self, share: float | Sequence[float]) -> None:
        """Leave the target to the table of FLOPs, which says what can be reached."""
