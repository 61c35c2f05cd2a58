"""Levels: each site's units go in the site's own order, so that a mask is one level a site, and what each level costs and saves.

A site is what one output projection reads: a layer's heads, or its blocks of neurons. Level k of a site is the site without the
first k units of its order. One elimination a site (`plasticity_env.signals.stepwise`) gives the order, another pass the price of
every level (`plasticity_env.signals.level_prices`), on text that the repair was not fitted on: what the kept units say of the
pruned ones on the text of the fit itself is too good to be true.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from plasticity_env.common.errors import InputError
from plasticity_env.model.flops import CostTable, flop_table
from plasticity_env.model.layouts import Site
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.signals.level_prices import level_prices
from plasticity_env.signals.linalg import RIDGE, ridge_inverse
from plasticity_env.signals.stepwise import removal_turns
from plasticity_env.signals.text_sums import TextSums, alike_sites, gather_sums


@dataclass(frozen=True)
class SiteLevels:
    """Levels of one site of U units.

    Attributes:
        layer: Layer of the site.
        kind: attention or mlp.
        order: (U,) columns of an (L, U) mask, in the order in which the units go.
        prices: (U + 1,) estimated rise of the loss at each level, nats per token; never falls from a level to the next.
        costs: (U + 1,) whole numbers that each level takes off what a budget counts: FLOPs per token, unless said otherwise.
    """

    layer: int
    kind: str
    order: tuple[int, ...]
    prices: np.ndarray = field(repr=False)
    costs: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class LevelTable:
    """Levels of all sites of a model, in the order of its layers, the attention of each first.

    A choice of levels is an (S,) array of whole numbers, 0 to U of each site.

    Attributes:
        sites: S of them.
        shape: (L, U) of the model's masks.
    """

    sites: tuple[SiteLevels, ...]
    shape: tuple[int, int]

    @cached_property
    def deepest(self) -> np.ndarray:
        """(S,) the last level of each site: all its units gone."""
        return np.array([len(site.order) for site in self.sites])

    @cached_property
    def holds_heads(self) -> np.ndarray:
        """(S,) boolean, True for the sites whose units are heads."""
        return np.array([site.kind == "attention" for site in self.sites])

    @cached_property
    def step(self) -> int:
        """The largest number that all costs are multiples of: the grid on which budgets are exact."""
        return math.gcd(*(int(cost) for site in self.sites for cost in site.costs)) or 1

    @cached_property
    def least(self) -> int:
        """The least that a step from a level to the next costs, of those that cost something."""
        steps = np.concatenate([np.diff(site.costs) for site in self.sites])
        return int(steps[steps > 0].min(initial=self.whole or 1))

    @cached_property
    def whole(self) -> int:
        """Cost of all units together."""
        return sum(int(site.costs[-1]) for site in self.sites)

    def price(self, levels: Sequence[int] | np.ndarray) -> float:
        """Estimated rise of the loss of a choice of levels, nats per token."""
        return float(sum(site.prices[level] for site, level in zip(self.sites, levels, strict=True)))

    def cost(self, levels: Sequence[int] | np.ndarray) -> int:
        """What a choice of levels takes off the budget."""
        return sum(int(site.costs[level]) for site, level in zip(self.sites, levels, strict=True))

    def mask(self, levels: Sequence[int] | np.ndarray) -> Tensor:
        """(L, U) boolean mask of a choice of levels, True = active."""
        active = torch.ones(self.shape, dtype=torch.bool)
        for site, level in zip(self.sites, levels, strict=True):
            active[site.layer, list(site.order[:level])] = False
        return active

    def levels(self, active: Tensor) -> np.ndarray:
        """The choice of levels that a mask is.

        Raises:
            InputError: A site of the mask lacks other units than the first ones of its order.
        """
        counts = [int((~active[site.layer, list(site.order)]).sum()) for site in self.sites]
        if not torch.equal(self.mask(counts), active):
            raise InputError(
                "this mask is not a level of every site: it prunes units out of the order in which their site removes them"
            )
        return np.array(counts)

    def counting(self, cost: Tensor) -> LevelTable:
        """The same with a budget that counts something else than FLOPs.

        Args:
            cost: (L, U) what each unit counts, whole numbers, whatever else is gone.
        """
        sites = []
        for site in self.sites:
            steps = cost[site.layer, list(site.order)].double().cumsum(0)
            sites.append(replace(site, costs=whole_costs(torch.cat([steps.new_zeros(1), steps]))))
        return replace(self, sites=tuple(sites))


def whole_costs(costs: Tensor) -> np.ndarray:
    """Costs as int64.

    Raises:
        InputError: A cost is not a whole number.
    """
    rounded = costs.double().round()
    if not bool(torch.isclose(rounded, costs.double(), rtol=1e-12, atol=1e-6).all()):
        raise InputError("levels count whole FLOPs, and a unit of this model costs a fraction of one")
    found: np.ndarray = rounded.long().numpy()
    return found


def measure_levels(
    model: PlasticModel,
    price_ids: Tensor,
    fit_ids: Tensor | None = None,
    *,
    flops: CostTable | None = None,
    ridge: float = RIDGE,
    sampled: bool = False,
    batch_size: int = 4,
    of_outputs: bool = False,
) -> LevelTable:
    """Order the units of every site, and price every level on text that the repair was not fitted on.

    Args:
        model: Measured as the dense model that it is.
        price_ids: (n, T) token ids that price: a forward and a backward.
        fit_ids: (m, T) token ids that repairs are fitted on: a forward. None: each half of ``price_ids`` prices what is
            fitted on the other one, and the order is that of both together.
        flops: Table of the model's FLOPs; by default that of texts of T tokens.
        ridge: lambda of the repair, as a share of the mean diagonal of the second moments.
        sampled: Take gradients of tokens that the model draws (the true Fisher), not of the text's own.
        batch_size: Sequences in one pass.
        of_outputs: Price by what the projection's output loses, as ZipLM does, in the place of the loss: squared error over
            squared size of the dense output. No gradients are taken.

    Raises:
        InputError: A single sequence and no text to fit on, or what `gather_sums` refuses.
    """
    if fit_ids is None and len(price_ids) < 2:
        raise InputError(
            "levels are priced on text that the repair was not fitted on: give at least 2 calibration blocks, or moment_blocks"
        )
    if fit_ids is None:
        halves = price_ids.tensor_split(2)
        first, second = (
            gather_sums(model, half, gradients=not of_outputs, sampled=sampled, batch_size=batch_size)
            for half in halves
        )
        fit = price = first + second
        folds = ((first, second), (second, first))
    else:
        fit = gather_sums(model, fit_ids, gradients=False, batch_size=batch_size)
        price = gather_sums(model, price_ids, gradients=not of_outputs, sampled=sampled, batch_size=batch_size)
        folds = ((fit, price),)  # type: ignore[assignment]
    table = flop_table(model, price_ids.shape[1]) if flops is None else flops
    # half of the curvature of a sequence's loss, which is a mean over its tokens
    nats = 1.0 if of_outputs else (price_ids.shape[1] - 1) / 2
    slopes_of = _output_weights if of_outputs else TextSums.second_slopes
    found: dict[int, SiteLevels] = {}
    for sites in alike_sites([site for site in model.sites if site.gated]):
        width, moment, slopes = sites[0].unit_width, price.second_moments(sites), slopes_of(price, sites)
        inverse = ridge_inverse(fit.second_moments(sites), ridge)
        order = removal_turns(inverse, moment, slopes, width).argsort(dim=1, stable=True)  # (k, units)
        priced = [_prices(*fold, sites, order, ridge, slopes_of(fold[1], sites)) for fold in folds]
        prices = torch.stack(priced).mean(0) * nats
        for site, mine, costs in zip(sites, order.tolist(), prices.cpu(), strict=True):
            found[site.index] = _levels(site, mine, costs, table, tuple(model.shape))  # type: ignore[arg-type]
    return LevelTable(tuple(found[index] for index in sorted(found)), tuple(model.shape))  # type: ignore[arg-type]


def _output_weights(price: TextSums, sites: Sequence[Site]) -> Tensor:
    """(k, I, I) W W^T over the mean squared size of the output x W, so that tr(D^T X D H) is a share of the output."""
    squares = torch.stack([site.output_weight().float() @ site.output_weight().float().T for site in sites])
    whole = (price.second_moments(sites).to(squares.dtype) * squares).sum((1, 2))
    return squares / whole.clamp(min=1e-30)[:, None, None]


def _prices(
    fit: TextSums, price: TextSums, sites: Sequence[Site], order: Tensor, ridge: float, slopes: Tensor
) -> Tensor:
    """(k, U + 1) prices of levels on one text, of repairs that are fitted on another one."""
    inverse = ridge_inverse(fit.second_moments(sites), ridge)
    return level_prices(inverse, price.second_moments(sites), slopes, order, sites[0].unit_width)


def _levels(site: Site, order: Sequence[int], prices: Tensor, flops: CostTable, shape: tuple[int, int]) -> SiteLevels:
    """Levels of a site, its units by their places there; FLOPs as the whole model's table counts them."""
    columns = tuple(site.columns.start + unit for unit in order)
    masks = torch.ones(len(columns) + 1, *shape, dtype=torch.bool)
    for level, column in enumerate(columns, 1):
        masks[level:, site.layer, column] = False
    totals = flops.totals(masks)
    rising = prices.clamp(min=0).cummax(0).values  # a level is never cheaper than the one before
    return SiteLevels(site.layer, site.kind, columns, rising.numpy(), whole_costs(totals[0] - totals))
