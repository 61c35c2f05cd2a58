"""Heads that learn fastest from the first step: output rows of zero, values along the steepest directions (GradMax)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from plasticity_env.common.errors import InputError
from plasticity_env.growth.base import InitialWeights, Source, small_random, weights_of, with_noise
from plasticity_env.growth.row_gradients import Pattern, row_gradients
from plasticity_env.model.layouts import HeadSlice
from plasticity_env.model.plastic_model import PlasticModel

PATTERNS = 4  # attention patterns a layer that are tried: those of its most useful heads


class GradMaxWeights(InitialWeights):
    """Output rows of zero, and values that make the loss's gradient in these rows as large as their norm allows.

    GradMax (Evci et al. 2022, "GradMax: Growing neural networks using gradient information") for an attention head. With the
    attention pattern A of an active head of the layer, the layer's input X and the gradient G of the loss in what attention
    writes, a head with values X V has the gradient V^T M in its output rows, M = (A X)^T G. Among V with orthogonal columns of
    equal length its norm is largest for the left singular vectors of M with the largest singular values. V has the Frobenius norm
    that the layer's value projection gives a KV group. Zero rows leave the model's function as it is, so the gate opens at once,
    and the rows that training moves do what a trained gate in front of fixed rows would.

    The n-th new head of a layer takes the n-th most useful pattern (highest Fisher, at most four), and the next singular vectors
    once these are used up. A dead KV group takes keys of a living one and values for its first head. A head of a living group
    has no values of its own: there the queries of another group's active head are taken, those of the largest gradient; where
    there is none, and in a layer without an active head, they are random. MLP blocks start random with zero rows.
    """

    name = "gradmax"
    reads_text = True
    gradual = False

    @classmethod
    def check(cls, model: PlasticModel) -> None:
        """Refuse an architecture whose heads have no queries that could be chosen.

        Raises:
            InputError: Queries and keys are normalised over all heads at once.
        """
        if model.blocks[0].layout.whole_norm:
            raise InputError(
                f"initial weights 'gradmax' cannot hold in {type(model.model).__name__}: queries are normalised over all heads "
                "at once, so that no head's attention pattern can be chosen alone; take 'copy', 'transfer' or 'random'"
            )

    def __init__(self, usefulness: Tensor | None = None) -> None:
        super().__init__(usefulness)
        self._chosen: dict[tuple[int, int], _Choice] = {}
        self._promise: Tensor | None = None

    def prepare(self, model: PlasticModel, input_ids: Tensor, batch_size: int = 8) -> None:
        plans = {layer: self._plan(model, layer) for layer in range(model.shape[0])}
        patterns = {layer: [p for group in plan.values() for p in group] for layer, plan in plans.items()}
        gradients = row_gradients(model, patterns, input_ids, batch_size)
        self._promise = torch.zeros(model.shape)
        for layer, plan in plans.items():
            for choice in _choices(model, layer, plan, gradients):
                self._chosen[layer, choice.unit] = choice
                self._promise[layer, choice.unit] = choice.gradient

    def _plan(self, model: PlasticModel, layer: int) -> dict[int, list[Pattern]]:
        """By KV group with pruned heads, the patterns that its heads may take, best guess first."""
        block, active = model.blocks[layer], model.active[layer]
        ranked = self.by_usefulness(model, layer, slice(0, model.heads))
        size, plan = block.group_size, {}
        for group in range(block.kv_heads):
            members = active[group * size : (group + 1) * size]
            if bool(members.all()):
                continue
            if bool(members.any()):
                others = [head for head in ranked if head // size != group][:PATTERNS]
                plan[group] = [Pattern(layer, head, group, free=False) for head in others]
            elif not ranked:
                plan[group] = []
            else:
                donors = [head for head in ranked if head // size == ranked[0] // size] if size > 1 else ranked
                plan[group] = [Pattern(layer, head, head // size, free=True) for head in donors[:PATTERNS]]
        return plan

    def promise(self, model: PlasticModel) -> Tensor | None:
        """(L, U) squared norm of the gradient in the zero output rows, (nats per token)^2 over the weights' squares."""
        return self._promise

    def source(self, model: PlasticModel, layer: int, unit: int) -> Source:
        choice = self._chosen.get((layer, unit))
        return Source("random") if choice is None else Source("active", layer, choice.pattern.query)

    def __call__(
        self, model: PlasticModel, layer: int, unit: int, pieces: list[HeadSlice], generator: torch.Generator | None
    ) -> list[Tensor]:
        """Queries (and keys) of the chosen pattern, values along the steepest directions, output rows of zero."""
        source = self.sources[layer, unit] = self.source(model, layer, unit)
        own = len(model.pieces(layer, unit, "unit"))
        if source.layer is None:
            values = small_random(model, layer, unit, pieces, generator)
        else:
            choice = self._chosen[layer, unit]
            values = weights_of(model, source, len(pieces))
            if choice.again:
                values[0] = with_noise(values[0], generator)
            if len(pieces) > own:
                rows = len(model.blocks[layer].value_slices(0))
                assert choice.values is not None
                values[-rows:] = _value_rows(pieces[-rows:], choice.values)
        values[own - 1] = torch.zeros_like(values[own - 1])
        return values


@dataclass(frozen=True)
class _Choice:
    """What one slot grows with.

    Attributes:
        unit: The slot.
        pattern: Head whose attention it has.
        values: (E, D) its value projection; None where its KV group keeps its own.
        gradient: Squared norm of the gradient in its output rows.
        again: Another new head of its KV group has the same pattern.
    """

    unit: int
    pattern: Pattern
    values: Tensor | None
    gradient: float
    again: bool


def _choices(
    model: PlasticModel, layer: int, plan: dict[int, list[Pattern]], gradients: dict[Pattern, Tensor]
) -> list[_Choice]:
    block, chosen = model.blocks[layer], []
    new_groups = 0
    for group, patterns in plan.items():
        members = range(group * block.group_size, (group + 1) * block.group_size)
        slots = [head for head in members if not bool(model.active[layer, head])]
        if not patterns:
            continue
        if not patterns[0].free:
            order = sorted(patterns, key=lambda p: -float(gradients[p].square().sum()))
            for place, unit in enumerate(slots):
                pattern = order[place % len(order)]
                norm = float(gradients[pattern].square().sum())
                chosen.append(_Choice(unit, pattern, None, norm, place >= len(order)))
            continue
        first = 0 if block.group_size > 1 else new_groups % len(patterns)
        turn = new_groups if block.group_size > 1 else new_groups // len(patterns)
        values = _steepest(gradients[patterns[first]], block.unit_width, turn) * _value_norm(model, layer)
        for place, unit in enumerate(slots):
            pattern = patterns[(first + place) % len(patterns)]
            norm = float((values.T @ gradients[pattern]).square().sum())
            chosen.append(_Choice(unit, pattern, values, norm, place >= len(patterns)))
        new_groups += 1
    return chosen


def _steepest(gradient: Tensor, width: int, turn: int) -> Tensor:
    """(E, D) of Frobenius norm 1: left singular vectors of an (E, E) gradient, the ``turn``-th ``width`` of them."""
    left = torch.linalg.svd(gradient.double()).U.float()  # (E, E)
    start = turn * width % max(1, left.shape[1] - width + 1)
    return left[:, start : start + width] / width**0.5


def _value_norm(model: PlasticModel, layer: int) -> float:
    """Frobenius norm that the layer's value projection has for one KV group, root mean square over groups."""
    block = model.blocks[layer]
    norms = [float(block.value_slices(group)[0].data.float().square().sum()) for group in range(block.kv_heads)]
    return (sum(norms) / len(norms)) ** 0.5


def _value_rows(pieces: list[HeadSlice], values: Tensor) -> list[Tensor]:
    """Weight and bias of a value projection, in the order in which they are stored."""
    weight, *bias = pieces
    stored = values.T if weight.dim == 0 else values
    return [stored.to(weight.data), *(torch.zeros_like(piece.data) for piece in bias)]
