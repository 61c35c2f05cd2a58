"""Distillation from the dense model: the pruned one also learns what the dense one says, and what it computes inside.

What it says are its logits (Hinton et al. 2015); what it computes inside are the hidden states after each layer and what each
layer's attention writes, as in FitNets (Romero et al. 2015) and TinyBERT (Jiao et al. 2020).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plasticity_env.common.errors import InputError, unknown
from plasticity_env.model.inputs import text_mask_inputs
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.model.snapshots import Snapshot
from plasticity_env.training.layer_outputs import PLACES, layer_outputs, relative_error

PARTS = ("logits", *PLACES)


@dataclass(frozen=True)
class Distillation:
    """What the learn phase minimises beside the next-token loss: (1 - w) CE + w (tau^2 KL(teacher || student) + R_h + R_a).

    Both distributions are softmax(logits / tau); the KL is a mean over the positions that count in the loss, in nats. R_h is
    the squared distance of the hidden states after each layer from the teacher's, over the teacher's mean squared norm there,
    mean over layers and positions; R_a is the same of what each layer's attention writes. Terms of parts that are not asked for
    are left out; each has the weight 1, so a relative error of 10% counts as 0.1 nats.

    Attributes:
        teacher: Called with ``input_ids`` (and ``attention_mask``), gives ``logits`` (B, T, V); never trained.
        weight: w, in (0, 1].
        temperature: tau, above 0.
        parts: Some of ``logits``, ``hidden`` and ``attention``; for the last two the teacher is a `PlasticModel` of the
            student's size.

    Raises:
        InputError: A weight or temperature out of range, or unknown parts.
    """

    teacher: nn.Module
    weight: float = 0.5
    temperature: float = 1.0
    parts: tuple[str, ...] = ("logits",)

    def __post_init__(self) -> None:
        distilled_parts("+".join(self.parts))
        if self.places and not isinstance(self.teacher, PlasticModel):
            raise InputError(
                f"distillation of {' and '.join(self.places)} needs a PlasticModel as the teacher, got "
                f"{type(self.teacher).__name__}: wrap it, or distil logits alone"
            )
        if not 0 < self.weight <= 1:
            raise InputError(f"the weight of distillation must lie in (0, 1], got {self.weight!r}; 0.5 is usual")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise InputError(f"the temperature of distillation must be above 0, got {self.temperature!r}")

    @classmethod
    def from_dense(
        cls,
        model: PlasticModel,
        snapshot: Snapshot | None = None,
        *,
        weight: float = 0.5,
        temperature: float = 1.0,
        parts: tuple[str, ...] = ("logits",),
    ) -> Distillation:
        """Distil from a frozen copy of the model with all heads open (see `dense_teacher`)."""
        return cls(dense_teacher(model, snapshot), weight, temperature, parts)

    @property
    def places(self) -> tuple[str, ...]:
        """Names of the layers' outputs that are compared."""
        return tuple(part for part in self.parts if part in PLACES)

    def check(self, student: PlasticModel) -> None:
        """Refuse a student whose layers cannot be compared with the teacher's.

        Raises:
            InputError: Layers are compared and are not as many, or not as wide.
        """
        if not self.places:
            return
        assert isinstance(self.teacher, PlasticModel)
        sizes = [(m.shape[0], int(m.blocks[0].output_weight().shape[1])) for m in (self.teacher, student)]
        if sizes[0] != sizes[1]:
            raise InputError(
                f"distillation of {' and '.join(self.places)} compares layer by layer: the teacher has {sizes[0][0]} layers of "
                f"width {sizes[0][1]}, the model {sizes[1][0]} of width {sizes[1][1]}; distil logits alone"
            )

    @torch.no_grad()
    def teach(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Lesson:
        """What the teacher says and computes."""
        extra = text_mask_inputs(self.teacher, attention_mask)
        with self.hear(self.teacher) as heard:
            logits: Tensor = self.teacher(input_ids=input_ids, use_cache=False, **extra).logits
        return Lesson(logits, heard)

    @contextmanager
    def hear(self, model: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
        """What a model's layers compute in the forward pass inside, as far as it is compared."""
        if not self.places:
            yield {}
            return
        assert isinstance(model, PlasticModel)
        with layer_outputs(model, self.places) as heard:
            yield heard

    def differences(
        self, logits: Tensor, heard: dict[str, list[Tensor]], lesson: Lesson, counted: Tensor
    ) -> dict[str, Tensor]:
        """How far a student is from the teacher in each part, summed over the positions that count ((B, T) boolean)."""
        found = {}
        if "logits" in self.parts:
            found["logits"] = distillation_loss(logits, lesson.logits, counted, self.temperature)
        for place in self.places:
            found[place] = relative_error(heard[place], lesson.layers[place], counted)
        return found

    def objective(self, nats: Tensor, differences: dict[str, Tensor]) -> Tensor:
        """What is minimised, from sums over tokens."""
        square = self.temperature**2
        total = sum((square if part == "logits" else 1.0) * value for part, value in differences.items())
        return (1 - self.weight) * nats + self.weight * total


@dataclass(frozen=True)
class Lesson:
    """What the teacher says and computes of a batch.

    Attributes:
        logits: (B, T, V).
        layers: (B, T, E) of each layer, by place.
    """

    logits: Tensor
    layers: dict[str, list[Tensor]]


def distilled_parts(names: str) -> tuple[str, ...]:
    """The parts of a model that are distilled, from ``logits``, ``hidden``, ``attention`` or several of them joined by ``+``.

    Raises:
        InputError: Another word, or one twice.
    """
    parts = tuple(names.split("+"))
    for part in parts:
        if part not in PARTS:
            raise unknown("part to distil", part, PARTS, ', or several joined by "+": logits+hidden')
    if len(set(parts)) < len(parts):
        raise InputError(f"distil {names!r} names a part twice: name each of {', '.join(PARTS)} at most once")
    return parts


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
