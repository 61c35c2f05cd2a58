"""What a grown unit starts from, by name: random weights, a copy, a split, what another layer had, the steepest direction.

Each is a `plasticity_env.model.unit_weights.NewWeights` for `PlasticModel.grow`; a new one is one class and one line in
`INITIAL_WEIGHTS`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from plasticity_env.common.errors import InputError
from plasticity_env.common.registries import Registry
from plasticity_env.growth.base import OUTPUT_SHARE, SYMMETRY_NOISE, InitialWeights, Source, group_columns, same_kind
from plasticity_env.growth.gradmax import GradMaxWeights
from plasticity_env.growth.lemon import LemonWeights
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.model.unit_weights import NewWeights

__all__ = [
    "INITIAL_WEIGHTS",
    "OUTPUT_SHARE",
    "SYMMETRY_NOISE",
    "CopyWeights",
    "InitialWeights",
    "RandomWeights",
    "Source",
    "TransferWeights",
    "find_initial_weights",
    "plant",
    "register_initial_weights",
    "starting",
]


class RandomWeights(InitialWeights):
    """Normal weights with the standard deviation of the layer's own parameters, a tenth of it for output rows, zero biases.

    Output rows of full size are noise that training has to take back first: see the measurement in docs/lab/growth.md.
    """

    name = "random"
    measures = False

    def source(self, model: PlasticModel, layer: int, unit: int) -> Source:
        return Source("random")


class CopyWeights(InitialWeights):
    """A copy of the layer's most useful active unit (highest Fisher), with noise; random where the layer has none.

    A head whose KV group is alive keeps that group's keys and values, so it copies the most useful head of the group.
    """

    name = "copy"

    def source(self, model: PlasticModel, layer: int, unit: int) -> Source:
        columns = same_kind(model, unit)
        if unit < model.heads and not model.group_is_dead(layer, unit):
            columns = group_columns(model, layer, unit)
        best = self.most_useful(model, layer, columns)
        return Source("random") if best is None else Source("active", layer, best)


class TransferWeights(InitialWeights):
    """U-Net transfer: the weights that a pruned unit of the mirrored layer (i to L-1-i) had when it was pruned.

    The pruned unit of the same column is taken, else the next one (cyclically); where the mirrored layer has no pruned
    unit, its most useful active one. `sources` says which it was. Noise as for a copy.
    """

    name = "transfer"

    def source(self, model: PlasticModel, layer: int, unit: int) -> Source:
        mirrored, columns = model.shape[0] - 1 - layer, same_kind(model, unit)
        pruned = (~model.active[mirrored, columns]).nonzero().flatten() + columns.start
        if len(pruned):
            width = columns.stop - columns.start
            return Source("pruned", mirrored, int(pruned[((pruned - unit) % width).argmin()]))
        return Source("active", mirrored, self.most_useful(model, mirrored, columns))


INITIAL_WEIGHTS: Registry[type[InitialWeights]] = Registry(
    "initial weights",
    {kind.name: kind for kind in (RandomWeights, CopyWeights, TransferWeights, LemonWeights, GradMaxWeights)},
)


def register_initial_weights(kind: type[InitialWeights]) -> None:
    """Add initial weights of one's own under their name.

    Raises:
        InputError: The name is that of a kind that comes with the package.
    """
    INITIAL_WEIGHTS.add(kind.name, kind)


def find_initial_weights(kind: str | type[InitialWeights]) -> type[InitialWeights]:
    """A kind of initial weights by name, or the class that was handed in.

    Raises:
        InputError: No such kind.
    """
    return INITIAL_WEIGHTS.find(kind) if isinstance(kind, str) else kind


def starting(
    kind: type[InitialWeights],
    model: PlasticModel,
    fisher: Tensor | None,
    input_ids: Tensor | None,
    batch_size: int = 8,
) -> InitialWeights:
    """Initial weights that are ready to be asked for units.

    Args:
        kind: Kind of initial weights.
        model: The model just before it grows.
        fisher: (L, U) scores, for a kind that measures.
        input_ids: (B, T) calibration text, for a kind that reads it.
        batch_size: Sequences in one measuring pass.

    Raises:
        InputError: The architecture is one on which this kind cannot hold what it promises, or there is no text to read.
    """
    kind.check(model)
    initial = kind(fisher)
    if kind.reads_text:
        if input_ids is None:
            raise InputError(f"initial weights {kind.name!r} measure: pass input_ids, (sequences, tokens) of text")
        initial.prepare(model, input_ids, batch_size)
    return initial


def plant(
    model: PlasticModel,
    mask: Tensor,
    initial: InitialWeights,
    initial_scale: float,
    warmup_steps: int,
    generator: torch.Generator | None,
    weights: NewWeights[PlasticModel] | None = None,
) -> None:
    """Grow units from initial weights, and let the units that were there share what they write where that belongs to it.

    Args:
        model: Grown in place.
        mask: (L, U) boolean, pruned units.
        initial: What they start from.
        initial_scale, warmup_steps: First value and warm-up of their gates, where they are gradual; the others open at
            once.
        generator: Source of random weights.
        weights: The same weights, made before; None makes them now.
    """
    mask = mask & ~model.active
    model.grow(mask, initial_scale, warmup_steps if initial.gradual else 0, generator, weights or initial)
    for layer in mask.any(1).nonzero().flatten().tolist():
        initial.share_rows(model, layer, model.blocks[layer].output_weight(), mask)
    model.weights_changed()
