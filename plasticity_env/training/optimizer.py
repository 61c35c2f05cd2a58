"""The optimizer of the plasticity cycle."""

from __future__ import annotations

import math

import torch
from torch import nn

from plasticity_env.common.errors import InputError, unknown

OPTIMIZERS = ("adamw", "sgd")


def get_plasticity_optimizer(
    model: nn.Module,
    learning_rate: float = 5e-5,
    weight_decay: float = 0.01,
    kind: str = "adamw",
    momentum: float = 0.0,
) -> torch.optim.Optimizer:
    """An optimizer over all trainable parameters; weight decay on matrices only, not on biases and norms.

    It knows nothing of heads: step it inside ``model.frozen_heads(optimizer)`` (pruned heads stay bit-identical) and, for
    rates of their own, `HeadLRManager.scaled`; `PlasticityTrainer` does both.

    Args:
        model: A `PlasticModel` or any module.
        learning_rate: Constant rate, above 0.
        weight_decay: Decoupled for AdamW, at least 0.
        kind: ``adamw`` or ``sgd``.
        momentum: Momentum of SGD.

    Raises:
        InputError: A rate out of range, an unknown kind, or nothing to train.
    """
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise InputError(f"learning_rate must be above 0, got {learning_rate!r}; 5e-5 is usual")
    if not (math.isfinite(weight_decay) and weight_decay >= 0):
        raise InputError(f"weight_decay must be at least 0, got {weight_decay!r}")
    if kind not in OPTIMIZERS:
        raise unknown("optimizer", kind, OPTIMIZERS)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise InputError("the model has no trainable parameter: call model.requires_grad_(True) first")
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if kind == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=momentum)
    return torch.optim.AdamW(groups, lr=learning_rate)
