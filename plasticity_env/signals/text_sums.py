"""What a text says of a model's units, as sums that texts can be added by: the price of every unit follows from them.

A site's repair and the price of its units under K-FAC (`plasticity_env.signals.stepwise`) need no more of a text than second
moments of what its projection reads and of the loss's gradient there. Both are sums over tokens: those of a mixture are the
sum of its parts', a running estimate forgets by a factor, and a prior joins with a weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from plasticity_env.common.errors import InputError
from plasticity_env.model.contexts import frozen
from plasticity_env.model.inputs import check_text
from plasticity_env.model.layouts import Site
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.signals.linalg import RIDGE, outer_sums, ridge_inverse
from plasticity_env.signals.measure import DIVERGED, text_losses
from plasticity_env.signals.moments import Moments, Statistics
from plasticity_env.signals.slopes import hear_gradient
from plasticity_env.signals.stepwise import eliminate

LOT = 1 << 20  # entries of the matrices that are eliminated at once


@dataclass(frozen=True)
class SiteTextSums:
    """Sums of one site's input x and of the loss's gradient h in it.

    Attributes:
        outer: (I, I) float64 sum of x x^T over the tokens.
        total: (I,) float64 sum of x.
        gradient: (I, I) float32 sum of h h^T, h of the mean loss of a sequence; None where no gradients were taken.
    """

    outer: Tensor
    total: Tensor
    gradient: Tensor | None


@dataclass(frozen=True)
class TextSums:
    """Sums over a text in the dense model.

    Attributes:
        sites: Sums of each site, by index in ``PlasticModel.sites``.
        tokens: Positions in the sums of inputs.
        graded: Sequences in the sums of gradients.
        loss: Summed mean losses of the sequences, nats.
        sequences: Number of sequences.
    """

    sites: Mapping[int, SiteTextSums] = field(repr=False)
    tokens: float
    graded: float
    loss: float
    sequences: float

    def __add__(self, other: TextSums) -> TextSums:
        sites = {
            index: SiteTextSums(
                mine.outer + (of := other.sites[index]).outer,
                mine.total + of.total,
                of.gradient
                if mine.gradient is None
                else mine.gradient
                if of.gradient is None
                else mine.gradient + of.gradient,
            )
            for index, mine in self.sites.items()
        }
        return TextSums(
            sites,
            self.tokens + other.tokens,
            self.graded + other.graded,
            self.loss + other.loss,
            self.sequences + other.sequences,
        )

    def __mul__(self, weight: float) -> TextSums:
        """The same with every token counting ``weight`` times."""
        sites = {
            index: SiteTextSums(
                of.outer * weight, of.total * weight, None if of.gradient is None else of.gradient * weight
            )
            for index, of in self.sites.items()
        }
        numbers = (self.tokens, self.graded, self.loss, self.sequences)
        return TextSums(sites, *(number * weight for number in numbers))

    @property
    def nbytes(self) -> int:
        """Bytes of all sums."""
        parts = [part for of in self.sites.values() for part in (of.outer, of.total, of.gradient) if part is not None]
        return sum(part.numel() * part.element_size() for part in parts)

    @property
    def statistics(self) -> Statistics:
        """Moments of the inputs, as repairs read them."""
        moments = {i: Moments(of.outer / self.tokens, of.total / self.tokens) for i, of in self.sites.items()}
        return Statistics(moments, round(self.tokens))

    def prices(self, model: PlasticModel, ridge: float = RIDGE) -> Tensor:
        """(L, U) float64 price of every unit in its turn, nats squared, at the dense model (`signals.stepwise.eliminate`).

        Raises:
            InputError: No gradients were taken, or a sum is not finite.
        """
        prices = torch.zeros(model.shape, dtype=torch.float64)
        for sites in alike_sites([model.sites[index] for index in self.sites]):
            moment, gradient = self.second_moments(sites), self.second_slopes(sites)
            _, in_turn = eliminate(ridge_inverse(moment, ridge), moment, gradient, sites[0].unit_width)
            for site, price in zip(sites, in_turn, strict=True):
                prices[site.layer, site.columns] = price.cpu()
        return prices

    def second_moments(self, sites: Sequence[Site]) -> Tensor:
        """(k, I, I) float64 means over tokens of x x^T at k sites of one shape.

        Raises:
            InputError: A sum is not finite.
        """
        outer = torch.stack([self.sites[site.index].outer for site in sites])
        return _finite(outer / self.tokens)

    def second_slopes(self, sites: Sequence[Site]) -> Tensor:
        """(k, I, I) float32 means over sequences of the summed h h^T at k sites of one shape.

        Raises:
            InputError: No gradients were taken, or a sum is not finite.
        """
        found = [self.sites[site.index].gradient for site in sites]
        if any(of is None for of in found):
            raise InputError(
                "prices need gradients, and these sums come from a forward pass alone: gather them with gradients=True"
            )
        return _finite(torch.stack(found) / self.graded)  # type: ignore[arg-type]


def _finite(sums: Tensor) -> Tensor:
    if not bool(torch.isfinite(sums).all()):
        raise InputError(DIVERGED)
    return sums


def alike_sites(sites: list[Site]) -> list[list[Site]]:
    """Sites of one shape, as many as are eliminated at once."""
    found: dict[tuple[str, int], list[list[Site]]] = {}
    for site in sites:
        inputs = site.output_weight().shape[0]
        lots = found.setdefault((site.kind, inputs), [[]])
        if lots[-1] and (len(lots[-1]) + 1) * inputs**2 > LOT:
            lots.append([])
        lots[-1].append(site)
    return [lot for lots in found.values() for lot in lots]


def gather_sums(
    model: PlasticModel,
    input_ids: Tensor,
    *,
    gradients: bool = True,
    sampled: bool = False,
    batch_size: int = 4,
) -> TextSums:
    """Sums over a text in one forward, and one backward where gradients are wanted.

    Args:
        model: Measured as the dense model that it is: all units open, no repair.
        input_ids: (n, T) token ids.
        gradients: Whether prices will be asked for.
        sampled: Take gradients of tokens that the model draws (the true Fisher), not of the text's own.
        batch_size: Sequences in one pass.

    Raises:
        InputError: A text that is empty or too short, ids that the model has no row for, or a loss that is not finite.
    """
    check_text(model, input_ids)
    sites, loss = [site for site in model.sites if site.gated], 0.0
    found: dict[int, list[Tensor | None]] = {site.index: [None, None, None] for site in sites}
    leaf = torch.zeros((), device=model.device, requires_grad=True)
    with model.dense(), frozen(model), _heard(sites, found, leaf if gradients else None):
        for chunk in input_ids.split(batch_size):
            with torch.set_grad_enabled(gradients):
                own, slopes = text_losses(model, chunk.to(model.device), None, sampled and gradients)
                if gradients:
                    torch.autograd.grad(slopes.sum(), leaf, allow_unused=True)  # the hooks want what passes
            loss += float(own.detach().double().sum())
    if not torch.isfinite(torch.tensor(loss)):
        raise InputError(DIVERGED)
    count = float(input_ids.numel())
    sums = {index: SiteTextSums(*parts) for index, parts in found.items()}  # type: ignore[arg-type]
    return TextSums(sums, count, float(len(input_ids)) if gradients else 0.0, loss, float(len(input_ids)))


class _heard:  # noqa: N801  a context manager
    """Hooks before the projections that sum what they read, and its gradients.

    Args:
        sites: Sites whose inputs are summed.
        found: Sums to add to, by site: of outer products, of rows, and of gradients' outer products.
        leaf: The same as for `hear_gradient`; None takes no gradients.
    """

    def __init__(self, sites: list[Site], found: dict[int, list[Tensor | None]], leaf: Tensor | None) -> None:
        self._sites, self._found, self._leaf = sites, found, leaf
        self._hooks: list[Any] = []

    def __enter__(self) -> None:
        self._hooks = [site.output.register_forward_pre_hook(self._at(site)) for site in self._sites]

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _at(self, site: Site) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...] | None]:
        found = self._found[site.index]

        def add(place: int, value: Tensor) -> None:
            held = found[place]
            found[place] = value if held is None else held + value

        def hear(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            (inputs,) = args
            rows = inputs.detach().reshape(1, -1, inputs.shape[-1]).float()
            add(0, outer_sums(rows)[0].double())
            add(1, rows.sum(1, dtype=torch.float64)[0])
            if self._leaf is None:
                return None
            return (
                hear_gradient(
                    inputs, self._leaf, lambda slope: add(2, outer_sums(slope.reshape(rows.shape).float())[0])
                ),
            )

        return hear
