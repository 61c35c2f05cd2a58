"""Bringing heads back with the weights that they had, instead of growing new ones."""

from __future__ import annotations

import torch
from torch import Tensor

from plasticity_env.growth.grow import growth_count
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.strategies.growing import GradientSensitivityStrategy
from plasticity_env.strategies.pruning import HeadView, measure_for


def revive_attention_heads(
    model: PlasticModel, share: float, input_ids: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Revive the pruned heads that the loss asks for most: largest -dL/dgate at gate 0 first.

    Args:
        model: A model with pruned heads, edited in place.
        share: Share of *all* head slots, in (0, 1]; at least one head, at most those that are pruned.
        input_ids: (B, T) calibration text.
        generator: Generator of random choices, for a view of the model that is complete.

    Returns:
        (L, U) boolean, True for the heads that came back.

    Raises:
        InputError: A share out of range, or compressed mode; the model is left untouched.
    """
    closed = ~model.active
    closed[:, model.heads :] = False
    count = growth_count(model, share, int(closed.sum()))
    rule = GradientSensitivityStrategy()
    signals = measure_for(model, rule, input_ids)
    view = HeadView(model.active, model.heads, generator or torch.Generator().manual_seed(0), signals)
    mask = rule.select(view, closed, count)
    model.revive(mask)
    return mask
