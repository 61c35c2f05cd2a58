"""The state of a wrapped model at one moment, to which `PlasticModel.restore` goes back."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from plasticity_env.model.applied_repairs import OutputRepair
from plasticity_env.model.unit_weights import Key


@dataclass(frozen=True)
class Snapshot:
    """Everything that edits and training change in a `PlasticModel`.

    Attributes:
        active, scale: (L, U) gates' mask and warm-up scale.
        warmup: (2, L, U) warm-up steps taken and in total.
        saved: Weights of pruned units and dead KV groups, by (layer, index, kind).
        repairs: Repaired sites; ``weights`` hold them repaired.
        weights: A copy of all parameters, or None where the weights equal those of version ``version``.
        version: The model's weight version.
        neuron_order: Order of the neurons in the weights.
    """

    active: Tensor
    scale: Tensor
    warmup: Tensor
    saved: dict[Key, list[Tensor]]
    repairs: dict[int, OutputRepair]
    weights: dict[str, Tensor] | None
    version: int
    neuron_order: str
