"""True learning rates of single heads: whatever the optimizer, what it does to a head's weights is multiplied.

A head's rows lie inside parameters that it shares with others (GPT-2 keeps queries, keys and values of all heads in one
matrix), so parameter groups cannot tell heads apart. Here the *update* is scaled: w = w_before + m (w_after - w_before).
SGD's and AdamW's updates are proportional to the learning rate, weight decay included, so this is the same as a learning
rate of m times the optimizer's; moments see plain gradients, as they do under another rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from plasticity_env.common.errors import InputError
from plasticity_env.model.layouts import HeadSlice
from plasticity_env.model.plastic_model import PlasticModel


class HeadLRManager:
    """Learning-rate multipliers of new, existing and pruned heads.

    A new head of age t (optimizer steps since `mark_new`) has, with m the new and e the existing heads' multiplier,

        m (t + 1) / W                        while t < W = ``warmup_steps``
        m + (e - m) min(1, (t - W) / D)      afterwards, D = ``decay_steps``

    a pruned head 0 (its weights and moments stay bit-identical: `PlasticModel.frozen_heads`), every other head e. Keys and
    values that several heads share (GQA) move at the rate of the active head that has read them longest: an existing one if
    there is any. Parameters that belong to no head keep the optimizer's own rate.

    Args:
        model: Model whose heads have rates.
        optimizer: Optimizer of the model; new heads' moments are zeroed in it, and `step` steps it. None: use `scaled`.
        new_head_multiplier: m, above 0; 3 to 5 is usual.
        existing_head_multiplier: e, at least 0.
        warmup_steps: W, optimizer steps until a new head has its full rate.
        decay_steps: D, optimizer steps from there back to e; None never goes back.

    Raises:
        InputError: A multiplier or a number of steps out of range.
    """

    def __init__(
        self,
        model: PlasticModel,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        new_head_multiplier: float = 3.0,
        existing_head_multiplier: float = 1.0,
        warmup_steps: int = 0,
        decay_steps: int | None = 500,
    ) -> None:
        if not (math.isfinite(new_head_multiplier) and new_head_multiplier > 0):
            raise InputError(f"new_head_multiplier must be above 0, got {new_head_multiplier!r}; 3 to 5 is usual")
        if not (math.isfinite(existing_head_multiplier) and existing_head_multiplier >= 0):
            raise InputError(f"existing_head_multiplier must be at least 0, got {existing_head_multiplier!r}")
        if warmup_steps < 0:
            raise InputError(f"warmup_steps must be at least 0, got {warmup_steps!r}")
        if decay_steps is not None and decay_steps < 1:
            raise InputError(f"decay_steps must be at least 1, or None to never decay, got {decay_steps!r}")
        self.model = model
        self.optimizer = optimizer
        self.new_head_multiplier = new_head_multiplier
        self.existing_head_multiplier = existing_head_multiplier
        self.warmup_steps = warmup_steps
        self.decay_steps = decay_steps
        self._age = torch.full(model.shape, -1)  # (L, U); -1: not new

    def mark_new(self, mask: Tensor) -> None:
        """Declare heads new from now on ((L, U) boolean): their age is 0, and the optimizer forgets their moments.

        Raises:
            InputError: Wrong shape or type.
        """
        mask = torch.as_tensor(mask).cpu()
        if mask.dtype != torch.bool or tuple(mask.shape) != self.model.shape:
            raise InputError(
                f"a mask must be boolean of shape {self.model.shape} (layers, units), got "
                f"{str(mask.dtype).removeprefix('torch.')} of shape {tuple(mask.shape)}"
            )
        self._age[mask] = 0
        if self.optimizer is not None:
            self.model.forget_moments(mask, self.optimizer)

    @property
    def new(self) -> Tensor:
        """(L, U) boolean, True for active heads whose multiplier is still that of a new one; a copy."""
        return self._is_new()

    @property
    def ages(self) -> Tensor:
        """(L, U) optimizer steps since each head was marked new, -1 where it is not; a copy, and may be set."""
        return torch.where(self._is_new(), self._age, -1)

    @ages.setter
    def ages(self, ages: Tensor) -> None:
        if tuple(ages.shape) != self.model.shape:
            raise InputError(f"ages must have shape {self.model.shape} (layers, units), got {tuple(ages.shape)}")
        self._age = ages.clone().long().cpu()

    @property
    def multipliers(self) -> Tensor:
        """(L, U) float64: the multiplier of each head at the next optimizer step; 0 where it is pruned."""
        age = self._age.double()
        full, rest = self.new_head_multiplier, self.existing_head_multiplier
        decayed = full if self.decay_steps is None else full + (rest - full) * self._decay_share(age)
        young = full * ((age + 1) / max(1, self.warmup_steps))
        fresh = torch.where(age < self.warmup_steps, young, decayed)
        return torch.where(self._is_new(), fresh, rest) * self.model.active

    def multiplier(self, layer: int, head: int) -> float:
        """The multiplier of one head at the next optimizer step."""
        return float(self.multipliers[layer, head])

    @contextmanager
    def scaled(self) -> Iterator[None]:
        """Wrap ``optimizer.step()``: the heads' updates are multiplied, and new heads are one step older.

        Stands beside ``model.frozen_heads(optimizer)``, which keeps pruned heads as they are, moments included.
        """
        before = [(piece, factor, piece.data.clone()) for piece, factor in self._scaled_pieces()]
        yield
        for piece, factor, old in before:
            piece.data.copy_(old.add_(piece.data - old, alpha=factor))
        self._age = torch.where(self._is_new(), self._age + 1, -1)

    def step(self) -> None:
        """Step the optimizer at the heads' own rates; pruned heads stay bit-identical.

        Raises:
            InputError: The manager was made without an optimizer.
        """
        if self.optimizer is None:
            raise InputError("this HeadLRManager has no optimizer to step: make it with one, or use scaled()")
        with self.model.frozen_heads(self.optimizer), self.scaled():
            self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Settings and ages, in plain containers."""
        return {
            "new_head_multiplier": self.new_head_multiplier,
            "existing_head_multiplier": self.existing_head_multiplier,
            "warmup_steps": self.warmup_steps,
            "decay_steps": self.decay_steps,
            "age": self._age.tolist(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict` (of a model of the same shape).

        Raises:
            InputError: If it belongs to a model of another shape.
        """
        age = torch.tensor(state["age"])
        if age.shape != self._age.shape:
            raise InputError(
                f"the head rates belong to a model of shape {tuple(age.shape)}, this one is {self.model.shape}"
            )
        self.new_head_multiplier = state["new_head_multiplier"]
        self.existing_head_multiplier = state["existing_head_multiplier"]
        self.warmup_steps = state["warmup_steps"]
        self.decay_steps = state["decay_steps"]
        self._age = age

    def _is_new(self) -> Tensor:
        new = (self._age >= 0) & self.model.active
        if self.decay_steps is not None:
            new &= self._age < self.warmup_steps + self.decay_steps
        return new

    def _decay_share(self, age: Tensor) -> Tensor:
        assert self.decay_steps is not None
        return ((age - self.warmup_steps) / self.decay_steps).clamp(0, 1)

    def _scaled_pieces(self) -> Iterator[tuple[HeadSlice, float]]:
        """Pieces of parameters whose update is not the optimizer's own, each with its factor."""
        model, rates, active = self.model, self.multipliers, self.model.active
        for layer, unit in (active & (rates != 1)).nonzero().tolist():
            for piece in model.pieces(layer, unit, "unit"):
                yield piece, float(rates[layer, unit])
        since = torch.where(self._is_new(), self._age, torch.iinfo(torch.int64).max).masked_fill(~active, -1)  # (L, U)
        for layer, block in enumerate(model.blocks):
            longest, eldest = since[layer, : model.heads].view(-1, block.group_size).max(1)  # (G,) each
            for group in (longest >= 0).nonzero().flatten().tolist():  # a group without an active head is frozen
                factor = float(rates[layer, group * block.group_size + int(eldest[group])])
                if factor != 1:
                    for piece in model.pieces(layer, group, "group"):
                        yield piece, factor
