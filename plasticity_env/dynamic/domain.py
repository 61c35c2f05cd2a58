"""A domain: what a kind of text has for its own over a body that all of them share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from plasticity_env.common.errors import InputError
from plasticity_env.dynamic.structure import Structure
from plasticity_env.model.layouts import HeadSlice
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.model.unit_weights import Key
from plasticity_env.signals.moment_files import tensors_digest


@dataclass(frozen=True)
class Domain:
    """What a kind of text has for its own.

    Attributes:
        name: Its name.
        own: Norms, biases and embeddings, by their names in the model.
        structure: Which units run, and how they make up for the others.
        units: (L, U) boolean, True for the units whose weights are its own.
        unit_weights: The weights of these units, and of KV groups that only they read, by (layer, index, kind).
        low_rank: By the name of a projection's weight, (inputs, r) and (r, outputs): their product is added to it.
    """

    name: str
    own: Mapping[str, Tensor] = field(repr=False)
    structure: Structure
    units: Tensor
    unit_weights: Mapping[Key, list[Tensor]] = field(default_factory=dict, repr=False)
    low_rank: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    @property
    def is_body(self) -> bool:
        """Whether it has nothing for its own."""
        return not (self.own or self.unit_weights or self.low_rank) and self.structure.is_dense

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All its numbers, by names that say what they are."""
        named = {f"own.{name}": value for name, value in self.own.items()}
        for (layer, index, kind), values in self.unit_weights.items():
            named |= {f"unit.{kind}.{layer}.{index}.{place}": value for place, value in enumerate(values)}
        for name, (down, up) in self.low_rank.items():
            named |= {f"down.{name}": down, f"up.{name}": up}
        named |= {f"mix.{site}": mix for site, mix in self.structure.mixes.items()}
        return named | {"active": self.structure.active, "units": self.units}

    @property
    def parameters(self) -> int:
        """How many numbers it holds: weights and repairs, without the masks."""
        return sum(value.numel() for value in self.tensors.values() if value.dtype != torch.bool)

    @property
    def digest(self) -> str:
        """SHA-256 of all its numbers and their names."""
        return tensors_digest(self.tensors)

    def check(self, model: PlasticModel) -> None:
        """Refuse a domain of another model.

        Raises:
            InputError: A number that is not finite, or of another shape than its place in the model.
        """
        self.structure.check(model)
        parameters, places = dict(model.model.named_parameters()), []
        try:
            places += [(value.shape, parameters[name].shape) for name, value in self.own.items()]
            for key, values in self.unit_weights.items():
                pieces = unit_pieces(model, key)
                places += [(value.shape, piece.data.shape) for piece, value in zip(pieces, values, strict=True)]
            projections = projections_by_weight(model)
            for name, (down, up) in self.low_rank.items():
                stored = merged(projections[name], down, up)
                places.append((stored.shape, parameters[name].shape))
        except (KeyError, IndexError, ValueError, RuntimeError) as error:
            raise InputError(f"domain {self.name!r} is not of this model: {type(error).__name__} {error}") from error
        if tuple(self.units.shape) != model.shape or any(ours != theirs for ours, theirs in places):
            raise InputError(f"domain {self.name!r} is not of this model: its weights have other shapes")
        if bool((self.units & ~self.structure.active).any()):
            raise InputError(f"domain {self.name!r} has weights for units that its structure prunes")
        if not all(bool(torch.isfinite(value).all()) for value in self.tensors.values()):
            raise InputError(f"domain {self.name!r} holds numbers that are not finite")


def own_names(model: PlasticModel, embedding: bool) -> list[str]:
    """Names of the parameters that a domain has for its own: norms, biases, and if asked for the token embedding.

    Where the output projection to the vocabulary is not the embedding itself, it is one of them.
    """
    stock = model.model
    ends = [stock.get_input_embeddings(), stock.get_output_embeddings()] if embedding else []  # type: ignore[operator]
    vocabulary = {id(end.weight) for end in ends if end is not None}
    return [name for name, value in stock.named_parameters() if value.ndim == 1 or id(value) in vocabulary]


def unit_pieces(model: PlasticModel, key: Key) -> list[HeadSlice]:
    """The matrices that make a unit or a KV group; its biases and norms are the domain's own in any case."""
    return [piece for piece in model.pieces(*key) if piece.data.ndim > 1]


def unit_keys(model: PlasticModel, units: Tensor) -> list[Key]:
    """What belongs to a set of units: the units themselves, and the KV groups that no other head reads."""
    keys: list[Key] = [(layer, unit, "unit") for layer, unit in units.nonzero().tolist()]
    for layer, block in enumerate(model.blocks):
        whole = units[layer, : model.heads].view(-1, block.group_size).all(-1)
        keys += [(layer, group, "group") for group in whole.nonzero().flatten().tolist()]
    return keys


def projections_by_weight(model: PlasticModel) -> dict[str, nn.Module]:
    """The projections of attention and MLPs, by the names of their weights."""
    modules: list[nn.Module] = []
    for block in model.blocks:
        modules += [*block.projections(), block.output]
    for mlp in model.mlps:
        modules += [*mlp.inputs, mlp.output]
    wanted = {id(module): module for module in modules}
    return {f"{name}.weight": wanted[id(part)] for name, part in model.model.named_modules() if id(part) in wanted}


def merged(projection: nn.Module, down: Tensor, up: Tensor) -> Tensor:
    """What low-rank rows add to a projection's weight, in the order in which that is stored."""
    return (down @ up).t() if isinstance(projection, nn.Linear) else down @ up
