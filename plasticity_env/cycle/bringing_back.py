"""Heads that come back in a cycle: those that a decider chose, or a share of the pruned ones, with old or new weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from plasticity_env.cycle.apply import repair
from plasticity_env.cycle.arms import Arm
from plasticity_env.cycle.growth_trial import GrowthTrial, try_growth
from plasticity_env.cycle.run_settings import REVIVE
from plasticity_env.growth.grow import grow_attention_heads_gradually
from plasticity_env.growth.initial_weights import find_initial_weights, plant, starting
from plasticity_env.growth.revival import revive_attention_heads


def bring_back(
    arm: Arm, way: Callable[[int], Tensor], generator: torch.Generator, gate_steps: int
) -> tuple[Tensor, GrowthTrial | None]:
    """Bring heads back, on trial where the settings ask for one.

    Args:
        arm: Arm whose model is edited.
        way: `chosen_heads`, `share_of_heads` or another, given all but the steps in which gates open.
        generator: Source of what it draws.
        gate_steps: Steps in which gates open.

    Returns:
        (L, U) boolean, what came back, and the trial if there was one.
    """
    steps = arm.settings.growth_trial_steps
    return try_growth(arm, way, steps, gate_steps, generator) if steps else (way(gate_steps), None)


def chosen_heads(arm: Arm, mask: Tensor, generator: torch.Generator, fisher: Tensor | None, gate_steps: int) -> Tensor:
    """Bring heads back that a decider chose, and repair; returns those that came back ((L, U) boolean).

    Args:
        arm: Arm whose model is edited.
        mask: (L, U) boolean, the heads.
        generator: Source of their weights.
        fisher: (L, U) scores, which some initial weights read.
        gate_steps: Steps in which gates open.
    """
    settings, model = arm.settings, arm.model
    mask = mask & ~model.active
    if settings.growth_init == REVIVE:
        model.revive(mask)
    else:
        kind = find_initial_weights(settings.growth_init)
        initial = starting(kind, model, fisher, arm.calibration(), settings.batch_size)
        plant(model, mask, initial, settings.initial_scale, gate_steps, generator)
        arm.trainer.grown(mask)
    repair(arm)
    return mask


def share_of_heads(arm: Arm, count: int, generator: torch.Generator, gate_steps: int) -> Tensor:
    """Bring so many pruned heads back as the settings say; returns which ((L, U) boolean).

    With ``growth_init="revive"`` these are the heads that the loss asks for most, and the model is repaired for them. Else
    the growth strategy chooses.
    """
    settings, model = arm.settings, arm.model
    share = count / (model.shape[0] * model.heads)
    if settings.growth_init == REVIVE:
        revived = revive_attention_heads(model, share, arm.calibration(), generator)
        repair(arm)
        return revived
    grown = grow_attention_heads_gradually(
        model,
        share,
        settings.growth_strategy,
        settings.initial_scale,
        gate_steps,
        input_ids=arm.calibration(),
        initial_weights=settings.growth_init,
        batch_size=settings.batch_size,
        generator=generator,
    )
    arm.trainer.grown(grown.mask)
    return grown.mask
