"""A structure: which units of a model run, and how those that do make up for the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from plasticity_env.common.errors import InputError
from plasticity_env.model.layouts import Site
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.repair.methods import mixing
from plasticity_env.signals.linalg import RIDGE
from plasticity_env.signals.moments import Statistics


@dataclass(frozen=True)
class Structure:
    """A mask and its least-squares repair, over weights that stay as they are.

    The repair of a site is W_S' = W_S + A W_P, S the kept and P the pruned inputs of its projection. Only A is kept: an input
    that is pruned reads what the kept ones say of it, x_P = x_S A, and the dense projection does the rest.

    Attributes:
        name: Its name in a bank.
        active: (L, U) boolean, True for the units that run.
        mixes: A (S, P) of each site that loses some of its inputs and keeps some.
        label: The kind of text that it was fitted on.
        share: Share of the units that it prunes (by number where heads are the only units, else by FLOPs).
    """

    name: str
    active: Tensor
    mixes: Mapping[int, Tensor] = field(repr=False)
    label: str = ""
    share: float = 0.0

    @property
    def is_dense(self) -> bool:
        """Whether it prunes nothing."""
        return bool(self.active.all())

    @property
    def numbers(self) -> int:
        """How many numbers it holds."""
        return sum(mix.numel() for mix in self.mixes.values())

    def check(self, model: PlasticModel) -> None:
        """Refuse a structure of another model.

        Raises:
            InputError: If its mask or a repair has another shape.
        """
        if tuple(self.active.shape) != model.shape or self.active.dtype != torch.bool:
            raise InputError(
                f"structure {self.name!r} has a mask of {tuple(self.active.shape)}, the model's units are {model.shape}"
            )
        for index, mix in self.mixes.items():
            kept = model.sites[index].kept_inputs(self.active) if index < len(model.sites) else self.active[:0]
            wanted = (int(kept.sum()), int((~kept).sum()))
            if tuple(mix.shape) != wanted or not bool(torch.isfinite(mix).all()):
                raise InputError(
                    f"structure {self.name!r} does not fit site {index} of this model: its repair is {tuple(mix.shape)} "
                    f"and must be finite of {wanted}"
                )

    def repaired(self, site: Site) -> Tensor | None:
        """(I, E) the site's projection with the repair multiplied in; None where there is none."""
        mix = self.mixes.get(site.index)
        if mix is None:
            return None
        weight, kept = site.output_weight().clone(), site.kept_inputs(self.active)
        weight[kept] += mix.to(weight) @ weight[~kept]
        return weight


def repair_of(model: PlasticModel, active: Tensor, statistics: Statistics, ridge: float = RIDGE) -> dict[int, Tensor]:
    """The least-squares repair A of every site that a mask cuts.

    Args:
        model: Model whose sites they are.
        active: (L, U) boolean.
        statistics: Moments of the dense stream.
        ridge: Ridge, as `plasticity_env.repair.least_squares` takes it.

    Returns:
        (S, P) float32 by site, on the model's device.

    Raises:
        InputError: Statistics that are not finite, or too few tokens for the ridge.
    """
    statistics.check(ridge)
    found = {}
    for site in model.sites:
        kept = site.kept_inputs(active)
        if bool(kept.any()) and not bool(kept.all()):
            moments = statistics.sites[site.index]
            moments.check()
            inside, outside = (rows.nonzero().flatten()[None] for rows in (kept, ~kept))
            mix = mixing(moments.gram.to(model.device)[None], inside, outside, ridge)[0]
            found[site.index] = mix.to(model.dtype)
    return found
