"""The rules of an episode: limits, pay, and what an agent sees; for one state or for several at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from plasticity_env.common.errors import InputError
from plasticity_env.envs.edits import EditMasks, Limits, allowed_edits, resolve
from plasticity_env.envs.episode import EpisodeState
from plasticity_env.envs.head_tokens import HeadState, head_tokens
from plasticity_env.envs.observation import Columns
from plasticity_env.envs.rewards import Outcome, RewardRule, Terms, find_reward
from plasticity_env.envs.settings import Settings, bounds
from plasticity_env.envs.workbench import Workbench
from plasticity_env.model.modes import PruningMode


@dataclass(frozen=True)
class View:
    """What follows from n states, before it is put into the shape of an action space.

    Attributes:
        heads: (n, N, F) and
        globals: (n, G), as observed.
        allowed: (n, L, U, 4) boolean over keep, prune, revive, grow.
        flops: (n,) forward FLOPs per token.
    """

    heads: np.ndarray
    globals: np.ndarray
    allowed: Tensor
    flops: Tensor


class Task:
    """What the settings make of a model and its text; holds no state of an episode.

    Args:
        settings: Settings of the environment.
        workbench: Read for the model's shape and costs only.
        version: Version of the environment's id, to which the columns of observations belong.
    """

    def __init__(self, settings: Settings, workbench: Workbench, version: int = 0) -> None:
        self.settings = settings
        self.columns = Columns.of(version, settings.signals)
        self.rule: RewardRule = find_reward(settings.reward)
        self.flop_table, self.parameter_table = workbench.flop_table, workbench.parameter_table
        self.heads, self.mlp_blocks = workbench.model.heads, workbench.model.mlp_blocks
        self.shape = workbench.model.shape
        self.slots = self.shape[0] * self.shape[1]
        self._mode = PruningMode.parse(settings.mode)

    @cached_property
    def dense_flops(self) -> float:
        """Forward FLOPs per token of the dense model."""
        return self.flop_table.total(torch.ones(self.shape, dtype=torch.bool))

    @property
    def revives(self) -> bool:
        """Whether pruned units may come back."""
        return self._mode is PruningMode.ADAPTIVE

    @property
    def counts_units(self) -> bool:
        """Whether a share of units is a number of units, not of FLOPs."""
        return not self.mlp_blocks

    @cached_property
    def unit_costs(self) -> Tensor:
        """(L, U) float64, what a unit counts in a share of units: 1, or its FLOPs where MLP blocks are units too."""
        if self.counts_units:
            return torch.ones(self.shape, dtype=torch.float64)
        return self.flop_table.marginal(torch.ones(self.shape, dtype=torch.bool)).double()

    def due_share(self, state: EpisodeState) -> float:
        """Share of the units that is pruned after this decision of an episode with a target; 0 without."""
        if state.share is None:
            return 0.0
        done = min(1.0, (state.step + 1) / self.settings.horizon)
        return state.start_share + (state.share - state.start_share) * done

    def pruned_share(self, active: Tensor) -> float:
        """Share of the units (or of their FLOPs) that an (L, U) mask prunes."""
        return float(self.unit_costs[~active].sum() / self.unit_costs.sum())

    @cached_property
    def barest(self) -> Tensor:
        """(L, U) mask with as much pruned as the limits allow, the most expensive units first."""
        active = torch.ones(self.shape, dtype=torch.bool)
        kept = max(self.settings.min_heads_per_layer, 0)
        prunable = active.clone()
        prunable[:, :kept] = False
        if not kept:
            prunable[0, 0] = False  # one head of the model stays
        order = self.unit_costs.masked_fill(~prunable, -1.0).flatten().argsort(descending=True, stable=True)
        active.view(-1)[order[: min(int(prunable.sum()), self.limits(None).max_pruned)]] = False
        return active

    def check_targets(self, share: float | Sequence[float] | None, budget: float | Sequence[float] | None) -> None:
        """Refuse targets that the limits let no episode reach.

        Args:
            share: Share of the units to prune, a number or a range; None where the task has no such target.
            budget: Share of the dense FLOPs to reach, read where the reward wants one.

        Raises:
            InputError: The end of a range that asks for most cannot be reached under `max_sparsity` and
                `min_heads_per_layer`.
        """
        limits = f"max_sparsity {self.settings.max_sparsity!r} and min_heads_per_layer {self.settings.min_heads_per_layer} allow"
        step = float(self.unit_costs.max() / self.unit_costs.sum())  # less than a whole unit more is rounded away
        if share is not None and bounds(share)[1] > self.pruned_share(self.barest) + step - 1e-9:
            raise InputError(
                f"pruned_share {share!r} cannot be reached: {limits} at most {self.pruned_share(self.barest):.3f} of the "
                "units to go; ask for less, or relax them"
            )
        least = self.flop_table.total(self.barest) / self.dense_flops
        if budget is not None and self.rule.needs_budget and bounds(budget)[0] < least - 1e-9:
            raise InputError(
                f"flop_budget {budget!r} cannot be reached: {limits} no fewer than {least:.3f} of the dense FLOPs; ask for "
                "more, relax them, or prune MLP blocks too (units='heads+mlp')"
            )

    def limits(self, budget: float | Tensor | None) -> Limits:
        """What no sequence of edits may break, given the share of the dense FLOPs to reach ((n,) for n states)."""
        most = min(math.floor(self.settings.max_sparsity * self.slots + 1e-9), self.slots - 1)
        return Limits(
            self._mode,
            self.settings.train_steps > 0,
            self.settings.min_heads_per_layer,
            most,
            None if budget is None else budget * self.dense_flops,
        )

    def resolve(self, state: EpisodeState, edits: Tensor, allowed: Tensor | None = None) -> tuple[EditMasks, int]:
        """Masks of a joint choice, limits kept, and how many edits were dropped; see `plasticity_env.envs.edits.resolve`."""
        fisher = state.measurement.signals.fisher
        limits, swaps = self.limits(state.budget), state.share is not None  # an episode with a target ranks
        return resolve(state.active, edits, limits, self.flop_table, fisher, allowed, swaps)

    def terms(self, state: EpisodeState, flops: float) -> Terms:
        """The potential's named summands."""
        return self.rule.terms(
            Outcome(
                loss=state.measurement.loss,
                reference_loss=_reference(state),
                flops=flops,
                dense_flops=self.dense_flops,
                flop_price=state.price,
                budget=state.budget,
                kl=state.measurement.kl,
                time_kept=state.measurement.time_kept,
            )
        )

    def pay(self, state: EpisodeState, flops: float) -> tuple[EpisodeState, float, Terms]:
        """Give a state its potential; returns it, what rose (the reward), and the terms."""
        terms = self.terms(state, flops)
        potential = sum(terms.values())
        return replace(state, potential=potential), potential - state.potential, terms

    def view(self, states: Sequence[EpisodeState], scale: Tensor | None = None) -> View:
        """Everything that an agent may see of n states.

        Args:
            states: States of episodes of this task.
            scale: (L, U) warm-up scale of the gates; None where the model is frozen.
        """
        active = torch.stack([state.active for state in states])  # (n, L, U)
        flops = self.flop_table.totals(active)
        marginal = self.flop_table.marginal(active)
        budgets = [state.budget for state in states]
        limits = self.limits(None if budgets[0] is None else torch.tensor(budgets, dtype=torch.float64))
        tokens = head_tokens(
            HeadState(
                active,
                active.float() if scale is None else scale * active,
                np.stack([state.age for state in states]),
                marginal / self.dense_flops,
                self.flop_table.group_size,
                self.heads,
                torch.stack([state.first_fisher for state in states]),
            ),
            [state.measurement.signals for state in states],
            hide_pruned=self._mode is PruningMode.COMPRESSED,
            columns=self.columns,
        )
        return View(tokens, self._globals(states, active, flops, limits), self._allowed(active, limits), flops)

    def _allowed(self, active: Tensor, limits: Limits) -> Tensor:
        return allowed_edits(active, limits, self.flop_table)

    def _globals(self, states: Sequence[EpisodeState], active: Tensor, flops: Tensor, limits: Limits) -> np.ndarray:
        settings, pruned = self.settings, (~active).sum((1, 2)).numpy()  # (n,)
        steps, prices = (np.array([getattr(state, name) for state in states]) for name in ("step", "price"))
        values: dict[str, float | np.ndarray] = {
            "step": steps / settings.horizon,
            "steps_left": settings.horizon - steps,
            "horizon": settings.horizon,
            "active_share": 1 - pruned / self.slots,
            "log_flops_kept": (flops / self.dense_flops).log().numpy(),
            "log_ppl_kept": np.array([_reference(state) - state.measurement.loss for state in states]),
            "flop_price": prices,
            "log_flop_price": np.log(prices),
            "budget": np.array([state.budget or 0.0 for state in states]),
            "target_share": np.array([state.share or 0.0 for state in states]),
            "due_share": np.array([self.due_share(state) for state in states]),
            "max_sparsity": settings.max_sparsity,
            "prunable": (limits.max_pruned - pruned) / self.slots,
            "compressed": float(self._mode is PruningMode.COMPRESSED),
            "trains": float(limits.trains),
            "repairs": float(settings.repair != "none"),
            "log_layers": math.log(self.shape[0]),
            "log_heads": math.log(self.heads),
            "log_mlp_blocks": math.log1p(self.mlp_blocks),
        }
        return self.columns.global_vectors(values, len(states))


def _reference(state: EpisodeState) -> float:
    return state.reference[min(state.step, len(state.reference) - 1)]
