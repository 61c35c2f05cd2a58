"""What an online controller may prune: two thresholds that the user understands, whatever the network thinks.

A head may be pruned only where both hold:
- **entropy**: its attention entropy is on the prune side of ``entropy_threshold`` nats: at least that with "high", at most that
  with "low". "auto" measures at the first decision: the side whose heads matter less (lower mean Fisher score) is pruned.
- **importance**: its Fisher score is at most the ``importance_threshold`` quantile of the active heads' Fisher scores, so that
  with 0.7 the most important 30% of what is left are protected.
Blocks of MLP neurons have no entropy: importance alone bounds them, and its quantile is theirs as that of heads is the heads'.
Reviving and growing are not bounded by them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from plasticity_env.common.errors import InputError, unknown
from plasticity_env.signals.measure import HeadSignals
from plasticity_env.strategies.pruning import DIRECTIONS

Side = Literal["high", "low"]


@dataclass(frozen=True)
class PruneBounds:
    """The two thresholds of an online controller."""

    entropy_threshold: float | None = 1.5
    """nats: only heads on the prune side of it may be pruned; None: any entropy"""
    importance_threshold: float = 0.7
    """quantile of the active heads' Fisher scores above which a head is protected; 1 protects none"""
    prune_entropy: str = "auto"
    """the prune side: high, low, or auto, which measures"""

    def __post_init__(self) -> None:
        if self.entropy_threshold is not None and not (
            math.isfinite(self.entropy_threshold) and self.entropy_threshold >= 0
        ):
            raise InputError(f"entropy_threshold must be at least 0 nats, got {self.entropy_threshold!r}")
        if not 0 <= self.importance_threshold <= 1:
            raise InputError(
                f"importance_threshold is a quantile within the model and must lie in [0, 1], got {self.importance_threshold!r}"
            )
        if self.prune_entropy not in DIRECTIONS:
            raise unknown("entropy direction", self.prune_entropy, DIRECTIONS)

    def side(self, signals: HeadSignals, active: Tensor) -> Side:
        """Choose the side of the entropy threshold that is pruned in this model.

        Args:
            signals: Signals of the model, on calibration text.
            active: (L, H) boolean.
        """
        if self.prune_entropy != "auto":
            return "high" if self.prune_entropy == "high" else "low"
        if self.entropy_threshold is None:
            return "high"
        means = {}
        for side, there in (
            ("high", signals.entropy >= self.entropy_threshold),
            ("low", signals.entropy < self.entropy_threshold),
        ):
            there = there & active
            means[side] = float(signals.fisher[there].double().mean()) if bool(there.any()) else math.inf
        return "high" if means["high"] <= means["low"] else "low"

    def measure(self, signals: HeadSignals, active: Tensor, side: Side, heads: int | None = None) -> Bounded:
        """Apply the thresholds.

        Args:
            signals: Signals of the model as it is.
            active: (L, H) boolean.
            side: Side of the entropy threshold.
            heads: Columns of the mask that are heads, blocks of MLP neurons come after them; None: all.
        """
        is_head = torch.zeros_like(active)
        is_head[:, :heads] = True
        cut, block_cut = (self._cut(signals.fisher[active & kind]) for kind in (is_head, ~is_head))
        unimportant = active & (signals.fisher.double() <= torch.where(is_head, cut, block_cut))
        on_side = active.clone()
        if self.entropy_threshold is not None:
            beyond = (
                signals.entropy >= self.entropy_threshold
                if side == "high"
                else signals.entropy <= self.entropy_threshold
            )
            on_side &= beyond | ~is_head
        return Bounded(self, side, float(cut), on_side, unimportant, is_head, active)

    def _cut(self, scores: Tensor) -> Tensor:
        """Fisher score at the quantile; infinite where there is none."""
        endless = torch.tensor(math.inf, dtype=torch.float64)
        return scores.double().quantile(self.importance_threshold) if len(scores) else endless


@dataclass(frozen=True)
class Bounded:
    """The thresholds on one state of a model.

    Attributes:
        bounds: The thresholds.
        side: Side of the entropy threshold that is pruned.
        cut: Fisher score at the importance quantile of the heads.
        on_side: (L, U) boolean, active heads on the prune side, and all active blocks.
        unimportant: (L, U) boolean, active units that are not protected.
        is_head: (L, U) boolean; the rest are blocks of MLP neurons.
        active: (L, U) boolean.
    """

    bounds: PruneBounds
    side: Side
    cut: float
    on_side: Tensor
    unimportant: Tensor
    is_head: Tensor
    active: Tensor

    @property
    def prunable(self) -> Tensor:
        """(L, U) boolean, units that may be pruned."""
        return self.on_side & self.unimportant

    def sentence(self) -> str:
        """What the bounds allow, in a sentence for the log."""
        quantile = self.bounds.importance_threshold
        parts = []
        if self.bounds.entropy_threshold is not None:
            sign = ">=" if self.side == "high" else "<="
            parts.append(f"{self._heads(self.on_side)} with entropy {sign} {self.bounds.entropy_threshold:g} nats")
        parts.append(f"{self._heads(self.unimportant)} with Fisher <= {self.cut:.3g} (the {quantile:g} quantile)")
        blocks = self.active & ~self.is_head
        more = f", and {int((blocks & self.prunable).sum())} of {int(blocks.sum())} MLP blocks" if blocks.any() else ""
        heads = self._heads(self.active)
        return f"of {heads} active heads {', '.join(parts)}: {self._heads(self.prunable)} may be pruned{more}"

    def _heads(self, mask: Tensor) -> int:
        return int((mask & self.is_head).sum())

    def details(self) -> dict[str, Any]:
        """What the bounds allow, as JSON can hold it."""
        return {
            "prune_entropy": self.side,
            "fisher_cut": self.cut,
            "on_prune_side": self._heads(self.on_side),
            "unprotected": self._heads(self.unimportant),
            "prunable": int(self.prunable.sum()),
        }
