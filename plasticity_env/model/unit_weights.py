"""The weights of units: which pieces of parameters they are, what is kept aside of pruned ones, what new ones start from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from plasticity_env.model.layouts import AttentionBlock, HeadSlice, MlpBlock

Key = tuple[int, int, str]  # layer, index, kind: "unit" (a column of the mask) or "group" (a KV group)
Model = TypeVar("Model", contravariant=True)


class NewWeights(Protocol[Model]):
    """Where the weights of a grown unit come from."""

    def __call__(
        self, model: Model, layer: int, unit: int, pieces: list[HeadSlice], generator: torch.Generator | None
    ) -> list[Tensor]:
        """New values of each piece, in its shape."""
        ...


class UnitWeights:
    """Weights of the units of one model, and those kept aside.

    Args:
        blocks, mlps: One a layer.

    Attributes:
        saved: Weights of pruned units and of dead KV groups.
    """

    def __init__(self, blocks: list[AttentionBlock], mlps: list[MlpBlock]) -> None:
        self._blocks, self._mlps = blocks, mlps
        self.saved: dict[Key, list[Tensor]] = {}

    def pieces(self, layer: int, index: int, kind: str) -> list[HeadSlice]:
        """The pieces of parameters that make a unit or a KV group, and that are made anew when it grows."""
        block = self._blocks[layer]
        if kind == "group":
            return block.group_slices(index)
        if index >= block.heads:
            mlp = self._mlps[layer]
            return [*mlp.input_slices(index - block.heads), mlp.output_slice(index - block.heads)]
        return block.head_slices(index)

    def all_pieces(self, layer: int, index: int, kind: str) -> list[HeadSlice]:
        """These, and what else a head or a KV group has for its own, which stays when it grows: sinks, norms."""
        block, pieces = self._blocks[layer], self.pieces(layer, index, kind)
        if kind == "group":
            return pieces + block.own_parts(index, "group")
        return pieces + block.own_parts(index, "head") if index < block.heads else pieces

    def save(self, layer: int, index: int, kind: str) -> None:
        """Keep the present weights aside."""
        self.saved[layer, index, kind] = [piece.data.clone() for piece in self.all_pieces(layer, index, kind)]

    def save_again(self) -> None:
        """Keep the present weights aside of everything that is kept aside."""
        for key in self.saved:
            self.save(*key)

    def put_back(self, layer: int, index: int, kind: str) -> bool:
        """Write what was kept aside back, and forget it; returns whether that changed any weight."""
        changed = False
        saved = self.saved.pop((layer, index, kind), [])
        for piece, tensor in zip(self.all_pieces(layer, index, kind) if saved else [], saved, strict=True):
            if not torch.equal(piece.data, tensor):
                piece.data.copy_(tensor)
                changed = True
        return changed

    def copy(self, saved: dict[Key, list[Tensor]] | None = None) -> dict[Key, list[Tensor]]:
        """A deep copy of what is kept aside (or of ``saved``)."""
        source = self.saved if saved is None else saved
        return {key: [tensor.clone() for tensor in tensors] for key, tensors in source.items()}

    def put_aside(self, gates: Tensor) -> dict[str, Tensor]:
        """What masked weights do not hold: output rows of units whose gate is not 1, and what pruning saved.

        Args:
            gates: (L, U) gates.

        Returns:
            Copies, under the names ``rows.LAYER.UNIT`` and ``saved.KIND.LAYER.INDEX.POSITION``.
        """
        aside = {}
        for layer, unit in (gates != 1).nonzero().tolist():
            aside[f"rows.{layer}.{unit}"] = _copy(self.pieces(layer, unit, "unit")[-1].data)  # the output rows
        for (layer, index, kind), tensors in self.saved.items():
            aside |= {f"saved.{kind}.{layer}.{index}.{position}": _copy(t) for position, t in enumerate(tensors)}
        return aside

    def take_from(self, aside: Mapping[str, Tensor]) -> None:
        """Bring back what `put_aside` copied: the rows into the weights, the saved weights in the place of the present ones."""
        for name, tensor in aside.items():
            if name.startswith("rows."):
                self.rows(name).data.copy_(tensor)
        self.saved = {
            key: [tensor.to(piece.data) for piece, tensor in zip(self.all_pieces(*key), tensors, strict=True)]
            for key, tensors in read_saved(aside).items()
        }

    def rows(self, name: str) -> HeadSlice:
        """The output rows that `put_aside` calls by this name."""
        layer, unit = map(int, name.split(".")[1:])
        return self.pieces(layer, unit, "unit")[-1]

    def move(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Move or convert everything, as ``nn.Module._apply`` does with parameters."""
        self.saved = {key: [fn(tensor) for tensor in tensors] for key, tensors in self.saved.items()}


def read_saved(aside: Mapping[str, Tensor]) -> dict[Key, list[Tensor]]:
    """The weights that pruning saved, out of what `UnitWeights.put_aside` made."""
    saved: dict[Key, dict[int, Tensor]] = {}
    for name, tensor in aside.items():
        if name.startswith("saved."):
            _, kind, layer, index, position = name.split(".")
            saved.setdefault((int(layer), int(index), kind), {})[int(position)] = tensor
    return {key: [tensors[i] for i in range(len(tensors))] for key, tensors in saved.items()}


def random_weights(
    model: object, layer: int, unit: int, pieces: list[HeadSlice], generator: torch.Generator | None
) -> list[Tensor]:
    """Normal weights with the standard deviation of the piece's own parameter; zero biases."""
    device = generator.device if generator is not None else torch.device("cpu")
    fresh = []
    for piece in pieces:
        noise = torch.randn(piece.data.shape, generator=generator, dtype=torch.float32, device=device)
        fresh.append(noise * float(piece.parameter.data.float().std()) if noise.ndim > 1 else torch.zeros_like(noise))
    return fresh


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().clone(memory_format=torch.contiguous_format)
