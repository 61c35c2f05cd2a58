"""Strategies that choose which pruned heads to grow; a new one is one class and one line that registers it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from plasticity_env.common.errors import InputError
from plasticity_env.common.registries import Registry
from plasticity_env.strategies.pruning import HeadView, PriorityStrategy, RandomStrategy, Strategy


class GradientSensitivityStrategy(PriorityStrategy):
    """Grows first the candidate whose gate, opened a little, lowers the loss most: -dL/dgate at gate 0.

    The candidates' *new* weights are in place while this is measured, since they are what will act.
    """

    name = "gradient_sensitivity"

    def priority(self, view: HeadView) -> Tensor:
        return view.measured.revive


class EntropyGapStrategy(PriorityStrategy):
    """Grows where attention is most focused: log visible length minus the mean entropy of the layer's active heads.

    All candidates of a layer have the layer's gap. A layer without an active head attends to nothing: its gap is the
    whole log visible length, so it comes first.
    """

    name = "entropy_gap"

    def priority(self, view: HeadView) -> Tensor:
        if view.log_visible is None:
            raise InputError("strategy 'entropy_gap' needs the mean log visible length of each layer (log_visible)")
        active = view.active[:, : view.heads]
        entropy = (view.measured.entropy[:, : view.heads] * active).sum(1) / active.sum(1).clamp(min=1)  # (L,)
        return (view.log_visible - entropy)[:, None].expand(view.active.shape)


class BalancedStrategy(Strategy):
    """Grows one head at a time in the layer with the fewest active heads; equal layers in their order."""

    name = "balanced"
    measures = False

    def select(self, view: HeadView, candidates: Tensor, count: int) -> Tensor:
        chosen = torch.zeros_like(candidates)
        for _ in range(count):
            left = candidates & ~chosen
            filled = (view.active | chosen)[:, : view.heads].sum(1)
            layer = int(torch.where(left.any(1), filled, view.heads + 1).argmin())
            chosen[layer, int(left[layer].int().argmax())] = True
        return chosen


GROWTH_STRATEGIES: Registry[Callable[[], Strategy]] = Registry(
    "growth strategy",
    {
        "gradient_sensitivity": GradientSensitivityStrategy,
        "entropy_gap": EntropyGapStrategy,
        "balanced": BalancedStrategy,
        "random": RandomStrategy,
    },
)


def register_growth_strategy(name: str, strategy: Callable[[], Strategy]) -> None:
    """Add a strategy that grows: a class, or whatever else makes one without arguments.

    Raises:
        InputError: The name is that of a strategy that comes with the package.
    """
    GROWTH_STRATEGIES.add(name, strategy)
