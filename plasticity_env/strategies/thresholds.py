"""Options of the rule of thresholds (`controllers.PlasticityController`), as commands and saved runs hold them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from plasticity_env.common.arguments import check_counts
from plasticity_env.common.values import check_number, plain_value


@dataclass(frozen=True)
class Thresholds:
    """Arguments of the plasticity controller beside its direction and its aggressiveness.

    Raises:
        InputError: One of them is no number, or lies outside its range.
    """

    entropy_threshold: float | None = None
    """plasticity controller: entropy in nats above which (direction low: below which) a head counts as idle; unset: a
    quantile over the active heads"""
    gradient_threshold: float | None = None
    """plasticity controller: mean |dL/dgate| in nats below which a head counts as quiet; unset: a quantile"""
    min_zeroed_epochs: int = 2
    """plasticity controller: decisions that a pruned head waits before it may be revived"""
    max_prune_rate: float = 1.0
    """plasticity controller: largest share of all heads pruned in one decision; above 0 it is at least one head"""
    history: int = 3
    """plasticity controller: number of measurements that are averaged"""

    def __post_init__(self) -> None:
        for entry in fields(Thresholds):
            object.__setattr__(self, entry.name, plain_value(getattr(self, entry.name)))
        for name in ("entropy_threshold", "gradient_threshold"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), 0)
        check_number("max_prune_rate", self.max_prune_rate, 0, 1)
        check_counts(self, min_zeroed_epochs=0, history=1)

    def options(self) -> dict[str, Any]:
        """The options by name, as the controller takes them."""
        return asdict(self)
