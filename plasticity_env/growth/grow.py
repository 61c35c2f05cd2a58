"""Growing attention heads gradually: choose pruned slots, give them new weights, open their gates a little."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from plasticity_env.common.errors import InputError
from plasticity_env.growth.candidates import Candidates
from plasticity_env.growth.initial_weights import InitialWeights, Source, find_initial_weights, plant, starting
from plasticity_env.growth.schedule import WarmupSchedule
from plasticity_env.growth.starting_point import Heads, HoldsModel, held_model, started_from
from plasticity_env.growth.visibility import mean_log_visible
from plasticity_env.model.applied_repairs import OutputRepair
from plasticity_env.model.modes import PruningMode
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.signals.measure import HeadSignals, measure
from plasticity_env.strategies.growing import GROWTH_STRATEGIES
from plasticity_env.strategies.growing import BalancedStrategy as BalancedStrategy
from plasticity_env.strategies.growing import EntropyGapStrategy as EntropyGapStrategy
from plasticity_env.strategies.growing import GradientSensitivityStrategy as GradientSensitivityStrategy
from plasticity_env.strategies.pruning import HeadView, Strategy, find_strategy


class _Grown(NamedTuple):
    model: PlasticModel
    added_count: int
    added_heads: list[tuple[int, int]]
    warmup_schedule: WarmupSchedule


class GrowthResult(_Grown):
    """What was grown; unpacks as ``model, added_count, added_heads, warmup_schedule``.

    Attributes:
        model: The model that was handed in, grown in place.
        added_count: How many heads grew: fewer than asked for where fewer were pruned.
        added_heads: Their (layer, head), in this order.
        warmup_schedule: ``warmup_schedule(step)`` is the scale of their gates.
        mask: (L, U) boolean, True for the heads that grew (for `PlasticModel.forget_moments`).
        sources: Places that each head's first weights came from.
    """

    mask: Tensor
    sources: dict[tuple[int, int], Source]


def grow_attention_heads_gradually(
    model: PlasticModel | HoldsModel,
    growth_percentage: float = 0.1,
    strategy: str | Strategy = "gradient_sensitivity",
    initial_scale: float = 0.01,
    warmup_steps: int = 100,
    *,
    params: Mapping[str, Tensor] | None = None,
    active_heads: Heads | None = None,
    input_ids: Tensor | None = None,
    initial_weights: str | type[InitialWeights] = "random",
    batch_size: int = 8,
    generator: torch.Generator | None = None,
) -> GrowthResult:
    """Grow some of a model's pruned heads with new weights, behind gates that start almost closed.

    Candidate weights are made for every pruned slot first; strategies that measure see them in place at gate 0, and the
    chosen slots grow with exactly these. Repairs that the model carries stay on the rows of the heads that they were made
    for. So just after growth a layer's attention output differs by at most ``initial_scale`` times the norm of what the
    new heads write. Call ``model.advance_warmup()`` after each training step (`FineTuner` does).

    Args:
        model: A model with pruned heads, edited in place; or a `PruningModule` that holds it.
        growth_percentage: Share of *all* head slots to grow, in (0, 1]; at least one head, at most those that are pruned.
        strategy: Name in `GROWTH_STRATEGIES`, or a strategy.
        initial_scale: First value of the new gates, in (0, 1].
        warmup_steps: Training steps until they are 1. Initial weights that leave the function as it is (``lemon``,
            ``gradmax``) open their gates at once, whatever these two say.
        params: Weights by name, as ``model.named_parameters()`` has them, that the model is given first; None leaves its own.
        active_heads: The heads that are active before growing, (layer, head) pairs or (L, H) boolean: all others are pruned
            first. None takes the model as it is.
        input_ids: (B, T) calibration text; needed unless neither the strategy nor the initial weights measure. A
            `PruningModule` brings its own (``calibration_ids()``).
        initial_weights: Name in `INITIAL_WEIGHTS`, or a class of your own.
        batch_size: Sequences in one measuring pass; no result depends on it.
        generator: Source of weights and random choices; seed 0 when None.

    Returns:
        The model, how many and which heads grew, and the warm-up.

    Raises:
        InputError: If the model is no `PlasticModel`, has no pruned heads or is in compressed mode; if a share, scale or name is
            not allowed; if there is nothing to measure on; if weights are not the model's; or if ``active_heads`` names a
            pruned head. The model is left untouched.
    """
    model, holder = held_model(model)
    chosen = find_strategy(GROWTH_STRATEGIES, strategy, "growth")
    kind = find_initial_weights(initial_weights)
    schedule = WarmupSchedule(initial_scale, warmup_steps)
    if not kind.gradual:
        schedule = WarmupSchedule(1.0, 0)
    if (chosen.measures or kind.measures or kind.reads_text) and input_ids is None and holder is not None:
        input_ids = holder.calibration_ids()
    options = _Options(chosen, kind, schedule, growth_percentage, batch_size, generator)
    with started_from(model, params, active_heads):
        return _grow(model, options, input_ids)


@dataclass(frozen=True)
class _Options:
    strategy: Strategy
    weights: type[InitialWeights]
    schedule: WarmupSchedule
    share: float
    batch_size: int
    generator: torch.Generator | None


def _grow(model: PlasticModel, options: _Options, input_ids: Tensor | None) -> GrowthResult:
    chosen, kind, batch_size = options.strategy, options.weights, options.batch_size
    candidates = growable(model)
    count = growth_count(model, options.share, int(candidates.sum()))
    kind.check(model)
    for needs, what in (
        (chosen.measures, f"strategy {chosen.name!r}"),
        (kind.measures or kind.reads_text, f"initial weights {kind.name!r}"),
    ):
        if needs and input_ids is None:
            raise InputError(f"{what} measures: pass it input_ids, (sequences, tokens) of calibration text")
    generator = options.generator or torch.Generator().manual_seed(0)
    fisher = _measure(model, input_ids, batch_size).fisher if kind.measures else None
    initial = starting(kind, model, fisher, input_ids, batch_size)
    made = Candidates.make(model, candidates, initial, generator)
    view = HeadView(model.active, model.heads, generator)
    if chosen.measures:
        with made.in_place(model):
            assert input_ids is not None
            signals, visible = _measure(model, input_ids, batch_size), mean_log_visible(model, input_ids)
            if (promise := initial.promise(model)) is not None:
                signals = signals.having(revive=promise)
            view = replace(view, signals=signals, log_visible=visible)
    mask = chosen.select(view, candidates, count)
    before = _repaired_rows(model)
    schedule = options.schedule
    plant(model, mask, initial, schedule.initial_scale, schedule.warmup_steps, generator, weights=made)
    _keep_repairs(model, before, initial, mask)
    heads = [(layer, head) for layer, head in mask.nonzero().tolist()]
    result = GrowthResult(model, len(heads), heads, schedule)
    result.mask, result.sources = mask, {where: initial.sources[where] for where in heads}
    return result


def growable(model: PlasticModel) -> Tensor:
    """(L, U) boolean, True for pruned heads that can grow.

    Where a norm follows the output projection (Gemma-3) a layer without an active head has none to grow: the norm would
    blow a first head up to full size, however small its gate. Revive one there first.

    Raises:
        InputError: If it is no `PlasticModel`, is in compressed mode, or has no pruned head.
    """
    held_model(model)
    if model.mode is PruningMode.COMPRESSED:
        raise InputError("cannot grow in compressed mode, where pruning is permanent; wrap with mode='adaptive'")
    candidates = ~model.active
    candidates[:, model.heads :] = False
    if not bool(candidates.any()):
        raise InputError("all heads are active, so there is no slot to grow a head in: prune heads first")
    for layer, block in enumerate(model.blocks):
        if block.normed and not bool(model.active[layer, : model.heads].any()):
            candidates[layer] = False
    if not bool(candidates.any()):
        raise InputError(
            "heads are pruned only where a norm follows the output projection and a layer has no active head: "
            "a grown head's gate cannot start small there, so revive one head of the layer first"
        )
    return candidates


def growth_count(model: PlasticModel, growth_percentage: float, growable_heads: int) -> int:
    """How many heads a share of all head slots is: rounded, at least one, at most those that can grow.

    Raises:
        InputError: The share is outside (0, 1].
    """
    if not 0 < growth_percentage <= 1:
        raise InputError(f"growth_percentage {growth_percentage!r} is outside (0, 1]: 0.1 grows a tenth of all heads")
    return min(growable_heads, max(1, round(growth_percentage * model.shape[0] * model.heads)))


def _measure(model: PlasticModel, input_ids: Tensor | None, batch_size: int) -> HeadSignals:
    assert input_ids is not None
    return measure(model, input_ids, batch_size=batch_size, obs=False)


Repaired = dict[int, tuple[OutputRepair, Tensor, Tensor]]


def _repaired_rows(model: PlasticModel) -> Repaired:
    """The repairs that a model carries, with each repaired projection as it is and which of its inputs are active."""
    active, rows = model.active, {}
    for index, repair in model.repairs.items():
        site = model.sites[index]
        rows[index] = (repair, site.output_weight().clone(), site.kept_inputs(active))
    return rows


def _keep_repairs(model: PlasticModel, before: Repaired, initial: InitialWeights, mask: Tensor) -> None:
    """Put back, on the rows of the units that were active, the repairs that growing took away."""
    for index, (repair, weight, kept) in before.items():
        if index in model.repaired_sites:
            continue
        new, site = None, model.sites[index]
        if repair.weight is not None:
            new = site.output_weight().clone()
            new[kept.to(new.device)] = weight[kept.to(new.device)]
            if site.kind == "attention":
                initial.share_rows(model, site.layer, new, mask)
        model.apply_repair(index, new, repair.bias)
