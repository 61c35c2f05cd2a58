"""The rules of plasticity/Levels-v0: shares are of the units' FLOPs, shared keys and values included."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from plasticity_env.common.errors import InputError
from plasticity_env.envs.episode import EpisodeState
from plasticity_env.envs.levels_settings import LevelsSettings
from plasticity_env.envs.task import Task
from plasticity_env.strategies.level_choice import Room
from plasticity_env.strategies.level_table import LevelTable


class LevelsTask(Task):
    """As `Task`, with a budget of FLOPs whatever the units are, that choices of levels reach exactly, or to less than a unit."""

    @property
    def counts_units(self) -> bool:
        """Never: a share is one of FLOPs."""
        return False

    @property
    def owned(self) -> float:
        """FLOPs per token that the units own together."""
        return self.dense_flops - self.flop_table.base

    def pruned_share(self, active: Tensor) -> float:
        """Share of the units' FLOPs that an (L, U) mask prunes."""
        return (self.dense_flops - self.flop_table.total(active)) / self.owned

    def allowed_flops(self, share: float, budget: float | None) -> float:
        """FLOPs per token that may be gone where a share of the units' is due, and a budget of the reward is kept."""
        due = share * self.owned
        return due if budget is None else min(due, (1 - budget) * self.dense_flops)

    def room(self, table: LevelTable, state: EpisodeState) -> Room:
        """What the next choice of levels may do.

        Raises:
            InputError: The order of this episode puts its target out of reach.
        """
        self._check_reach(table, state)
        lowest = None if self.revives else table.levels(state.active)
        due = self.allowed_flops(self.due_share(state), state.budget)
        return Room.within(table, due, self.settings.min_heads_per_layer, lowest, self.slack(table))

    def slack(self, table: LevelTable) -> int:
        """FLOPs by which an episode may stay below what levels can reach."""
        settings = self.settings
        assert isinstance(settings, LevelsSettings)
        return 0 if settings.exact else table.least

    def _check_reach(self, table: LevelTable, state: EpisodeState) -> None:
        """Refuse a target that the heads which stay, with the keys and values that they read, put out of reach."""
        highest = Room.within(table, table.whole, self.settings.min_heads_per_layer).highest
        largest = max(int(np.diff(site.costs).max()) for site in table.sites)
        most, due = table.cost(highest), (state.share or 0.0) * self.owned
        if due > most + largest - 1e-6:
            raise InputError(
                f"pruned_share {state.share:.3f} cannot be reached: min_heads_per_layer {self.settings.min_heads_per_layer} "
                f"allows at most {most / self.owned:.3f} of the units' FLOPs to go in the order of this episode; ask for less"
            )
