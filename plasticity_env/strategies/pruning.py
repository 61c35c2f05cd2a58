"""Strategies: small named classes that choose heads, from what one measuring pass saw. Those that prune are here.

A new one is one class with a ``name`` and a ``priority`` (or a ``select`` of its own), and one line that registers it; every
score (`plasticity_env.signals.scores`) is one without a class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from plasticity_env.common.errors import InputError, unknown
from plasticity_env.common.registries import Registry
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.signals.measure import HeadSignals, gather, measure
from plasticity_env.signals.residual import crossfit_projectors, model_projectors
from plasticity_env.signals.scores import SCORES, Units

DIRECTIONS = ("high", "low", "auto")


@dataclass(frozen=True)
class HeadView:
    """What a strategy may look at.

    Attributes:
        active: (L, U) boolean; U units a layer are heads, then MLP blocks.
        heads: H, how many of these columns are heads.
        generator: Source of every random choice.
        signals: What was measured, (L, U) tensors; None for strategies that do not measure.
        log_visible: (L,) mean log of the number of visible keys, nats; None where nothing was measured for growth.
        costs: (L, U) FLOPs that a unit costs: scores then count per FLOP; None: units cost alike.
    """

    active: Tensor
    heads: int
    generator: torch.Generator
    signals: HeadSignals | None = None
    log_visible: Tensor | None = None
    costs: Tensor | None = None

    @property
    def measured(self) -> HeadSignals:
        """The signals that were measured.

        Raises:
            InputError: Nothing was measured.
        """
        if self.signals is None:
            raise InputError("this strategy reads signals: pass it calibration text (input_ids)")
        return self.signals


class Strategy(ABC):
    """Chooses heads.

    Attributes:
        name: Name in the registry.
        measures: Whether it needs calibration text.
        needs: What its signals need to be measured with: of "obs", "residual" and "crossfit".
        signals: Registered signals that it reads beside the standard ones.
    """

    name: str
    measures: bool = True
    needs: frozenset[str] = frozenset()
    signals: tuple[str, ...] = ()

    @abstractmethod
    def select(self, view: HeadView, candidates: Tensor, count: int) -> Tensor:
        """Choose units.

        Args:
            view: What may be looked at.
            candidates: (L, U) boolean, the units that may be chosen.
            count: How many, at most as many as there are candidates.

        Returns:
            (L, U) boolean, True for exactly ``count`` candidates.
        """


class PriorityStrategy(Strategy):
    """Chooses the units of highest priority; equal ones in the order of layers, then heads."""

    @abstractmethod
    def priority(self, view: HeadView) -> Tensor:
        """(L, U) float; the highest is chosen first."""

    def select(self, view: HeadView, candidates: Tensor, count: int) -> Tensor:
        priority = self.priority(view).double()
        if not bool(torch.isfinite(priority[candidates]).all()):
            raise InputError(
                f"strategy {self.name!r} measured values that are not finite: check the model and its text"
            )
        ranked = priority.masked_fill(~candidates, -torch.inf).flatten().argsort(descending=True, stable=True)
        chosen = torch.zeros(candidates.numel(), dtype=torch.bool)
        chosen[ranked[:count]] = True
        return chosen.view(candidates.shape) & candidates


class RandomStrategy(PriorityStrategy):
    """Any unit is as likely as any other; prunes and grows."""

    name = "random"
    measures = False

    def priority(self, view: HeadView) -> Tensor:
        return torch.rand(view.active.shape, generator=view.generator)


class ScoreStrategy(PriorityStrategy):
    """Prunes by a registered score, the least important units first.

    Args:
        score: Name in `plasticity_env.signals.scores.SCORES`.

    Raises:
        InputError: No such score.
    """

    def __init__(self, score: str) -> None:
        record = SCORES.find(score)
        self.name, self.measures = score, bool(record.reads)
        self.needs, self.signals = record.needs, record.signals

    def priority(self, view: HeadView) -> Tensor:
        priority = _score(self.name, view)  # minus the importance
        return priority if view.costs is None else priority / view.costs


class AttentionEntropyStrategy(PriorityStrategy):
    """Prunes by attention entropy, divided by the log of the visible length; MLP blocks, which have none, come last.

    Which direction harms less differs between models: measure both.

    Args:
        direction: "high" prunes the most diffuse heads first, "low" the most focused ones, "auto" what
            `entropy_direction` finds in the signals.

    Raises:
        InputError: If `direction` is neither of them.
    """

    name = "entropy"

    def __init__(self, direction: str = "high") -> None:
        if direction not in DIRECTIONS:
            raise unknown("entropy direction", direction, DIRECTIONS)
        self.direction = direction

    def priority(self, view: HeadView) -> Tensor:
        direction = self.direction
        if direction == "auto":
            direction = entropy_direction(view.measured, view.active[:, : view.heads])
        return _score(f"entropy_{direction}", view)


class CombinedStrategy(PriorityStrategy):
    """Prunes the smallest sum of ranks of gradient, Fisher score and entropy, which counts as far as it agrees with Fisher.

    importance = r(gradient) + r(Fisher) + rho * r(entropy), with r the rank among the active units in [0, 1], entropy
    normalised, and rho the rank correlation (Spearman) of entropy and Fisher score over the active heads: where rho is
    negative diffuse heads go earlier, where it is positive focused ones do, and where it is about 0 entropy has no say.
    An MLP block has no entropy: its rank is 1/2.
    """

    name = "combined"

    def priority(self, view: HeadView) -> Tensor:
        signals, active, heads = view.measured, view.active, view.active[:, : view.heads]
        entropy = torch.full(active.shape, 0.5, dtype=torch.float64)
        entropy[:, : view.heads] = _ranks(signals.entropy_normalized[:, : view.heads], heads)
        rho = entropy_correlation(signals, heads)
        return -(_ranks(signals.gradient, active) + _ranks(signals.fisher, active) + rho * entropy)


def _score(name: str, view: HeadView) -> Tensor:
    """(L, U) float64 priority of units under a score: what matters least is highest."""
    layers, units = view.active.shape
    seen = Units(
        lambda signal: view.measured[signal].flatten().numpy(),
        view.active.flatten().numpy(),
        np.tile(np.arange(units) >= view.heads, layers),
        np.repeat(np.arange(layers), units),
        lambda: np.random.default_rng(int(torch.randint(1 << 62, (), generator=view.generator))),
    )
    return -torch.from_numpy(SCORES.find(name).importance(seen)).view(layers, units)


class _ByScore(Mapping[str, Callable[[], Strategy]]):
    """A strategy for every registered score."""

    def __getitem__(self, name: str) -> Callable[[], Strategy]:
        SCORES[name]
        return partial(ScoreStrategy, name)

    def __iter__(self) -> Iterator[str]:
        return iter(SCORES)

    def __len__(self) -> int:
        return len(SCORES)


# what strategies of single scores were called when each was a class
MagnitudeStrategy, ActivationStrategy, GradientStrategy, FisherStrategy, ObsStrategy, ResidualFisherStrategy = (
    partial(ScoreStrategy, score)
    for score in ("magnitude", "activation", "gradient", "fisher", "obs", "residual_fisher")
)

_OWN: Registry[Callable[[], Strategy]] = Registry(
    "pruning strategy",
    {
        "random": RandomStrategy,
        "entropy_high": partial(AttentionEntropyStrategy, "high"),
        "entropy_low": partial(AttentionEntropyStrategy, "low"),
        "entropy": partial(AttentionEntropyStrategy, "auto"),
        "combined": CombinedStrategy,
    },
)
# every score prunes as a strategy too
PRUNING_STRATEGIES: Mapping[str, Callable[[], Strategy]] = ChainMap(_OWN, _ByScore())  # type: ignore[arg-type]


def register_pruning_strategy(name: str, strategy: Callable[[], Strategy]) -> None:
    """Add a strategy that prunes: a class, or whatever else makes one without arguments.

    Raises:
        InputError: The name is that of a strategy that comes with the package.
    """
    _OWN.add(name, strategy)


def entropy_correlation(signals: HeadSignals, heads: Tensor) -> float:
    """Rank correlation (Spearman) of normalised entropy and Fisher score, in [-1, 1]; 0 for fewer than three heads.

    Args:
        signals: Signals of one model.
        heads: (L, H) boolean, the heads that count.
    """
    width = heads.shape[1]
    if int(heads.sum()) < 3:
        return 0.0
    ranks = [_ranks(values[:, :width], heads)[heads] for values in (signals.entropy_normalized, signals.fisher)]
    centred = [values - values.mean() for values in ranks]
    spread = float(centred[0].norm() * centred[1].norm())
    return float(centred[0] @ centred[1]) / spread if spread > 0 else 0.0


def entropy_direction(signals: HeadSignals, heads: Tensor) -> Literal["high", "low"]:
    """Tell which entropy marks idle heads in this model: "high" where the Fisher score falls with entropy, else "low".

    Args:
        signals: Signals of one model, on calibration text.
        heads: (L, H) boolean, the heads that count; with fewer than three the answer is "high".
    """
    return "high" if int(heads.sum()) < 3 or entropy_correlation(signals, heads) < 0 else "low"


def _ranks(values: Tensor, among: Tensor) -> Tensor:
    """Ranks in [0, 1] of the values where ``among`` is True (equal values share the mean of theirs), 0 elsewhere; double."""
    ranks = torch.zeros(values.shape, dtype=torch.float64)
    _, inverse, counts = values[among].double().unique(return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    ranks[among] = (ends - (counts + 1) / 2)[inverse] / max(1, int(among.sum()) - 1)
    return ranks.masked_fill(among & ~torch.isfinite(values), torch.nan)


def find_strategy(registry: Mapping[str, Callable[[], Strategy]], strategy: str | Strategy, kind: str) -> Strategy:
    """A strategy by name, or the one that was handed in.

    Args:
        registry: Registry in which names are looked up.
        strategy: A name or a strategy.
        kind: What the registry holds, for the error.

    Raises:
        InputError: No such name.
    """
    if isinstance(strategy, Strategy):
        return strategy
    if strategy not in registry:
        raise unknown(f"{kind} strategy", strategy, registry)
    return registry[strategy]()


def select_for_pruning(
    model: PlasticModel,
    count: int,
    strategy: str | Strategy = "fisher",
    *,
    input_ids: Tensor | None = None,
    signals: HeadSignals | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Choose active units to prune; nothing is edited.

    Args:
        model: Measured as it is.
        count: How many units.
        strategy: Name in `PRUNING_STRATEGIES`, or a strategy.
        input_ids: (B, T) calibration text, for strategies that measure.
        signals: Use these instead of measuring.
        generator: Source of random choices; seed 0 when None.

    Returns:
        (L, U) boolean, True for the units to prune.

    Raises:
        InputError: No such strategy, nothing to measure on, or more units than are active.
    """
    chosen = find_strategy(PRUNING_STRATEGIES, strategy, "pruning")
    active = model.active
    if not 0 <= count <= int(active.sum()):
        raise InputError(f"cannot prune {count} units: {int(active.sum())} are active")
    if chosen.measures and signals is None:
        signals = measure_for(model, chosen, input_ids)
    view = HeadView(active, model.heads, generator or torch.Generator().manual_seed(0), signals)
    return chosen.select(view, active, count)


def measure_for(
    model: PlasticModel, strategy: Strategy, input_ids: Tensor | None, batch_size: int = 8
) -> HeadSignals | None:
    """What a strategy reads: signals of the model on calibration text, or None where it reads none.

    Raises:
        InputError: If it measures and there is no text.
    """
    if not strategy.measures:
        return None
    if input_ids is None:
        raise InputError(
            f"strategy {strategy.name!r} measures: pass it input_ids, (sequences, tokens) of calibration text"
        )
    projectors = crossfit = None
    if "crossfit" in strategy.needs:
        projectors, crossfit = crossfit_projectors(model, input_ids, batch_size)
    elif "residual" in strategy.needs:
        with model.dense():
            statistics = gather(model, input_ids, batch_size)
        projectors = model_projectors(model, statistics)
    return measure(
        model,
        input_ids,
        batch_size=batch_size,
        obs="obs" in strategy.needs,
        projectors=projectors,
        crossfit=crossfit,
        signals=strategy.signals,
    )


__all__ = [
    "DIRECTIONS",
    "PRUNING_STRATEGIES",
    "AttentionEntropyStrategy",
    "CombinedStrategy",
    "HeadView",
    "PriorityStrategy",
    "RandomStrategy",
    "ScoreStrategy",
    "Strategy",
    "entropy_correlation",
    "entropy_direction",
    "find_strategy",
    "measure_for",
    "register_pruning_strategy",
    "select_for_pruning",
]
