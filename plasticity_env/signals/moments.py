"""Second moments and means of what the output projections read, gathered in one pass over calibration text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from plasticity_env.common.errors import InputError


@dataclass(frozen=True)
class Moments:
    """Moments of the input x of one projection, over the tokens of a calibration text.

    Attributes:
        gram: (I, I) float64 mean of x x^T, I inputs.
        mean: (I,) float64 mean of x.
    """

    gram: Tensor
    mean: Tensor

    def check(self) -> None:
        """Refuse statistics that are not finite.

        Raises:
            InputError: The statistics are not finite.
        """
        if not bool(torch.isfinite(self.gram).all() and torch.isfinite(self.mean).all()):
            raise InputError("repair statistics are not finite: check the calibration text and the model's precision")


def pooled_moments(parts: Sequence[Moments], weights: Sequence[float]) -> Moments:
    """Moments of several texts together: the mean of theirs with weights that sum to 1."""
    grams, means = (
        sum(weight * getattr(part, name) for part, weight in zip(parts, weights, strict=True))
        for name in ("gram", "mean")
    )
    return Moments(grams, means)


@dataclass(frozen=True)
class Statistics:
    """Moments of the dense stream at some sites of a model.

    Attributes:
        sites: Moments by index in ``PlasticModel.sites``.
        tokens: Positions that counted.
    """

    sites: dict[int, Moments] = field(repr=False)
    tokens: int

    @classmethod
    def pooled(cls, parts: Sequence[Statistics]) -> Statistics:
        """Moments of several texts as if they were one."""
        tokens = sum(part.tokens for part in parts)
        weights = [part.tokens / tokens for part in parts]
        found = {site: pooled_moments([part.sites[site] for part in parts], weights) for site in parts[0].sites}
        return cls(found, tokens)

    def check(self, ridge: float) -> None:
        """Refuse a calibration text too short for the ridge: fewer tokens than inputs leave the rest to the ridge alone.

        Raises:
            InputError: Fewer tokens than inputs of a projection, and no ridge to speak of.
        """
        widest = max((len(moments.mean) for moments in self.sites.values()), default=0)
        if self.tokens < widest and ridge < 1e-4:
            raise InputError(
                f"{self.tokens} calibration tokens do not determine {widest} inputs with a ridge of {ridge:g}: "
                f"use at least {widest} tokens, or a ridge of 0.01"
            )
