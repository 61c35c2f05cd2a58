"""Distillation from the dense model: the pruned one also learns what the dense one would have said (Hinton et al. 2015)."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plasticity_env.common.errors import InputError
from plasticity_env.model.inputs import text_mask_inputs
from plasticity_env.model.plastic_model import PlasticModel, Snapshot


@dataclass(frozen=True)
class Distillation:
    """What the learn phase minimises beside the next-token loss: (1 - w) CE + w tau^2 KL(teacher || student).

    Both distributions are softmax(logits / tau); the KL is a mean over the positions that count in the loss, in nats.

    Attributes:
        teacher: Called with ``input_ids`` (and ``attention_mask``), gives ``logits`` (B, T, V); never trained.
        weight: w, in (0, 1].
        temperature: tau, above 0.

    Raises:
        InputError: A weight or temperature out of range.
    """

    teacher: nn.Module
    weight: float = 0.5
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 1:
            raise InputError(f"the weight of distillation must lie in (0, 1], got {self.weight!r}; 0.5 is usual")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise InputError(f"the temperature of distillation must be above 0, got {self.temperature!r}")

    @classmethod
    def from_dense(
        cls, model: PlasticModel, snapshot: Snapshot | None = None, *, weight: float = 0.5, temperature: float = 1.0
    ) -> Distillation:
        """Distil from a frozen copy of the model with all heads open (see `dense_teacher`)."""
        return cls(dense_teacher(model, snapshot), weight, temperature)

    @torch.no_grad()
    def teach(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """The teacher's logits, (B, T, V)."""
        extra = text_mask_inputs(self.teacher, attention_mask)
        logits: Tensor = self.teacher(input_ids=input_ids, use_cache=False, **extra).logits
        return logits


def dense_teacher(model: PlasticModel, snapshot: Snapshot | None = None) -> PlasticModel:
    """A frozen copy of a model with every head open and no repair.

    Args:
        model: Copied, not touched.
        snapshot: Snapshot of this model with weights: its weights are the teacher's. None takes the present weights (pruned heads
            count with those that they had when pruned).
    """
    teacher = copy.deepcopy(model)
    if snapshot is not None:
        teacher.restore(snapshot)
    ones, zeros = torch.ones(model.shape), torch.zeros(2, *model.shape)
    now = teacher.snapshot(weights=False)
    teacher.restore(replace(now, active=ones.bool(), scale=ones, warmup=zeros, saved={}, repairs={}))
    return teacher.eval().requires_grad_(False)


def distillation_loss(student: Tensor, teacher: Tensor, counted: Tensor, temperature: float = 1.0) -> Tensor:
    """Sum over the positions that count of KL(teacher || student), in nats.

    Args:
        student, teacher: (B, T, V) logits.
        counted: (B, T) boolean.
        temperature: Divides both logits.

    Returns:
        A scalar, differentiable in ``student``.
    """
    said = F.log_softmax(not_half(student[counted]) / temperature, -1)  # (n, V)
    wanted = F.log_softmax(not_half(teacher[counted]) / temperature, -1)
    return F.kl_div(said, wanted, reduction="sum", log_target=True)


def not_half(tensor: Tensor) -> Tensor:
    """The same in float32 where it is in half precision."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
