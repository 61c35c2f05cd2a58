"""The arms of a grid over pruning and growth, and what they share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from plasticity_env.common.arguments import check_counts, given
from plasticity_env.common.errors import InputError, unknown
from plasticity_env.common.values import LARGEST_RATE, check_number
from plasticity_env.data.text_settings import TextSettings

NONE, REVIVE = "none", "revive"
GROWTHS = (NONE, "gradient_sensitivity", "entropy_gap", "balanced", "random", REVIVE)  # those of the package


@dataclass(frozen=True)
class GridSetting(TextSettings):
    """What all cells of a table share, beside their text; a cell of another setting is another cell.

    Attributes:
        model_name: Name of the model.
        pruning_strategy: What chooses the heads to prune.
        training_steps: Optimizer steps of every arm, in all its cycles together.
        learning_rate: Learning rate of AdamW.
        initial_weights, initial_scale: Initial weights and initial scale of grown heads.
        rate_decay_steps: Steps in which the learning rate of heads that came back falls to that of the others.
        calibration_blocks: Blocks that score and repair.
        test_blocks: Blocks of the test split that losses are measured on.
    """

    model_name: str = "bard-gpt2-4x4"
    pruning_strategy: str = "fisher"
    training_steps: int = 200
    learning_rate: float = 5e-5
    initial_weights: str = "random"
    initial_scale: float = 0.01
    rate_decay_steps: int = 500
    calibration_blocks: int = 32
    test_blocks: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        if given(self, "pruning_strategy", "initial_weights", "initial_scale"):
            from plasticity_env.growth.initial_weights import find_initial_weights
            from plasticity_env.growth.schedule import WarmupSchedule
            from plasticity_env.strategies.pruning import PRUNING_STRATEGIES, find_strategy

            find_strategy(PRUNING_STRATEGIES, self.pruning_strategy, "pruning")
            find_initial_weights(self.initial_weights)
            WarmupSchedule(self.initial_scale, 0)
        check_counts(self, training_steps=1, calibration_blocks=1, test_blocks=1, rate_decay_steps=1)
        check_number("learning_rate", self.learning_rate, 0, LARGEST_RATE, above=True)


@dataclass(frozen=True)
class GridArm:
    """What is done to a model before and while it trains.

    Attributes:
        level: Share of all heads that is pruned; 0 is the control arm.
        repair: How the heads that stay make up for those that go, before training.
        growth: "none", "revive" or a growth strategy.
        percentage: Share of *all* heads that comes back.
        multiplier: Learning rate of heads that came back, in multiples of the others'.
        warmup_steps: Steps in which grown heads' gates open; 0 opens them at once.
        cycles: Prune to the level, bring back and train so many times, each on an equal part of the steps.
    """

    level: float = 0.0
    repair: str = "none"
    growth: str = NONE
    percentage: float = 0.0
    multiplier: float = 1.0
    warmup_steps: int = 0
    cycles: int = 1

    @property
    def without_growth(self) -> GridArm:
        """The arm that it is compared with: pruned alike, nothing brought back."""
        return GridArm(self.level, self.repair)

    @property
    def same_size(self) -> GridArm:
        """The arm that prunes, once, only what this one does not bring back; the control arm where that is nothing."""
        level = round(self.level - self.percentage, 9)
        return GridArm(level, self.repair) if level > 0 else GridArm()


CONTROL = GridArm()


def plan(
    levels: Sequence[float],
    percentages: Sequence[float],
    *,
    strategies: Sequence[str] = GROWTHS,
    repairs: Sequence[str] = (NONE,),
    multipliers: Sequence[float] = (1.0,),
    warmups: Sequence[int] = (30,),
    cycles: Sequence[int] = (1,),
    same_size: bool = True,
    steps: int | None = None,
) -> list[GridArm]:
    """The arms of a grid: control first, then everything that starts from the same pruned model side by side.

    An arm that would bring back more than was pruned is left out; so is what does not apply to an arm (a warm-up of
    revived heads, say), which would repeat it.

    Args:
        levels: Shares of all heads to prune, in [0, 1).
        percentages: Shares of all heads that come back, in (0, 1].
        strategies: Names in `GROWTHS`.
        repairs: Names of repairs.
        multipliers: Learning rates of heads that came back.
        warmups: Steps in which gates open.
        cycles: Numbers of cycles.
        same_size: Also, for every arm that brings heads back, the one that never pruned so many.
        steps: Training steps, against which warm-ups and cycles are checked; None checks nothing.

    Raises:
        InputError: A value out of range, an unknown name, or a warm-up that does not end within a cycle.
    """
    _check(levels, percentages, strategies, repairs, multipliers, warmups, cycles, steps)
    arms = [CONTROL]
    for repair in repairs:
        for level in sorted(level for level in levels if level > 0):
            bare = GridArm(level, repair)
            grown = [
                GridArm(level, repair, growth, percentage, multiplier, warmup, count)
                for growth in strategies
                if growth != NONE
                for percentage in percentages
                if percentage <= level + 1e-9
                for multiplier in multipliers
                for warmup in ((0,) if growth == REVIVE else warmups)
                for count in cycles
            ]
            smaller = [arm.same_size for arm in grown if arm.same_size.level > 0] if same_size else []
            arms += [*smaller, bare, *grown]
    order = {arm: place for place, arm in reversed(list(enumerate(arms)))}
    return sorted(order, key=lambda arm: (arm != CONTROL, arm.repair, arm.level, order[arm]))


def _check(
    levels: Sequence[float],
    percentages: Sequence[float],
    strategies: Sequence[str],
    repairs: Sequence[str],
    multipliers: Sequence[float],
    warmups: Sequence[int],
    cycles: Sequence[int],
    steps: int | None,
) -> None:
    for level in levels:
        if not 0 <= level < 1:
            raise InputError(f"pruning_levels must lie in [0, 1), got {level!r}")
    for percentage in percentages:
        if not 0 < percentage <= 1:
            raise InputError(
                f"growth_percentages must lie in (0, 1], got {percentage!r}; --growth_strategies none grows nothing"
            )
    from plasticity_env.repair.registry import find_repair
    from plasticity_env.strategies.growing import GROWTH_STRATEGIES

    growths = (NONE, *GROWTH_STRATEGIES, REVIVE)
    for strategy in strategies:
        if strategy not in growths:
            raise unknown("growth strategy", strategy, growths)
    for repair in repairs:
        find_repair(repair)
    for multiplier in multipliers:
        if not (math.isfinite(multiplier) and multiplier > 0):
            raise InputError(f"new_head_lr_multipliers must be above 0, got {multiplier!r}; 3 to 5 is usual")
    for count in cycles:
        if count < 1 or (steps is not None and count > steps):
            raise InputError(f"cycles must lie between 1 and the {steps or 'training'} steps, got {count}")
    for warmup in warmups:
        if warmup < 0 or (steps is not None and warmup > steps // max(cycles)):
            raise InputError(
                f"warmup_steps {warmup} must be at least 0 and end within a cycle"
                + (f" of {steps // max(cycles)} steps" if steps is not None else "")
            )
