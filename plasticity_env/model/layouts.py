"""A model seen head by head: the projections that write to the residual stream, and each unit's pieces of parameters."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from plasticity_env.common.errors import InputError
from plasticity_env.model.layout_table import Layout, find_layout, known_layouts, register_layout
from plasticity_env.model.projections import (
    HeadSlice,
    in_features,
    is_projection,
    out_features,
    parameter_of,
    rows_of,
)

SiteKind = Literal["attention", "mlp"]


class Site:
    """A projection that reads units and writes to the residual stream: what a repair may change.

    Attributes:
        kind: Kind of the output; a layer has one of each, the attention's first, or only the attention's.
        index: Its place in ``PlasticModel.sites``, by which moments, projectors and repairs are kept.
        output: The projection (``nn.Linear`` or GPT-2's ``Conv1D``).
        layer: Number of the layer that it belongs to.
        columns: The units that it reads, as columns of an (L, U) mask; empty where its units are not gated.
        unit_width: Inputs of one unit.
        factor: What its output is multiplied by before it joins the residual stream.
    """

    kind: ClassVar[SiteKind]
    index: int
    factor: float = 1.0
    layout: Layout
    output: nn.Module
    layer: int
    columns: slice
    unit_width: int

    def output_slice(self, unit: int) -> HeadSlice:
        """Input rows of the output projection that read this unit."""
        dim = 0 if isinstance(self.output, Conv1D) else 1
        return HeadSlice(parameter_of(self.output, "weight"), dim, unit * self.unit_width, self.unit_width)

    def output_weight(self) -> Tensor:
        """Output projection as an (inputs, E) view: row ``i`` multiplies input ``i``, whatever the storage order."""
        weight = parameter_of(self.output, "weight").data
        return weight if isinstance(self.output, Conv1D) else weight.t()

    @property
    def normed(self) -> bool:
        """Whether a norm stands between the projection and the residual stream."""
        return self.layout.post_norm

    @property
    def gated(self) -> bool:
        """Whether what it reads are units of the mask."""
        return self.columns.start < self.columns.stop

    def kept_inputs(self, active: Tensor) -> Tensor:
        """(..., inputs) boolean, True for inputs of active units, from (..., L, U) masks; all True where no unit is gated."""
        if not self.gated:
            return torch.ones(*active.shape[:-2], in_features(self.output), dtype=torch.bool)
        return active[..., self.layer, self.columns].repeat_interleave(self.unit_width, -1)


@dataclass(frozen=True)
class Holder:
    """A place where an attention module keeps one entry for each head.

    Attributes:
        owner: The module that has it.
        name: Name of the attribute that holds it.
    """

    owner: nn.Module
    name: str

    @property
    def held(self) -> Any:
        """A parameter whose first dimension counts heads, or a list of modules."""
        return getattr(self.owner, self.name)


class AttentionBlock(Site):
    """One layer's attention, seen head by head.

    Attributes:
        module: The attention module of the stock model.
        output: Its output projection (``nn.Linear`` or GPT-2's ``Conv1D``).
        heads, kv_heads, head_dim: Sizes; query head ``h`` reads KV group ``h // (heads // kv_heads)``.
    """

    kind = "attention"

    def __init__(self, module: nn.Module, layout: Layout, layer: int = 0) -> None:
        self.module = module
        self.layout = layout
        self.layer = layer
        self.output = getattr(module, layout.output)
        self.head_dim: int = getattr(module, "head_dim", None) or module.head_size  # type: ignore[assignment]
        self.unit_width = self.head_dim
        self.heads = in_features(self.output) // self.head_dim
        self.columns = slice(0, self.heads)
        self.kv_heads = self._count_groups()
        if not self.kv_heads or self.heads % self.kv_heads:
            raise InputError(
                f"the layout does not fit {type(module).__name__}: {self.heads} query heads of width {self.head_dim} and "
                f"{self.kv_heads} key heads; a fused projection is 'fused', 'interleaved' or 'grouped' (see Layout.split)"
            )

    def _count_groups(self) -> int:
        """KV groups, from the rows of the projections; 0 where these do not fit the layout."""
        names, query_rows = self.layout.projections, self.heads * self.head_dim
        rows = [out_features(getattr(self.module, name)) for name in names]
        if self.layout.split == "separate":
            fits = rows[0] == query_rows and rows[1] == rows[2] and rows[1] % self.head_dim == 0
            return rows[1] // self.head_dim if fits else 0
        both = rows[0] - query_rows  # keys and values
        fits = both > 0 and both % (2 * self.head_dim) == 0
        groups = both // (2 * self.head_dim) if fits else 0
        return groups if self.layout.split != "interleaved" or groups == self.heads else 0

    @property
    def group_size(self) -> int:
        """Query heads per KV group."""
        return self.heads // self.kv_heads

    def query_slices(self, head: int) -> list[HeadSlice]:
        """Rows of the query projection (weight and bias) of a query head."""
        name, size = self.layout.projections[0], self.group_size
        if self.layout.split in ("interleaved", "grouped"):
            return self._rows(name, (head // size * (size + 2) + head % size) * self.head_dim)
        return self._rows(name, head * self.head_dim)

    def kv_slices(self, group: int) -> list[HeadSlice]:
        """Rows of the key and value projections (weights and biases) of a KV group."""
        return self.key_slices(group) + self.value_slices(group)

    def key_slices(self, group: int) -> list[HeadSlice]:
        """Rows of the key projection of a KV group."""
        return self._kv_rows(group, 0)

    def value_slices(self, group: int) -> list[HeadSlice]:
        """Rows of the value projection of a KV group."""
        return self._kv_rows(group, 1)

    def _kv_rows(self, group: int, kind: int) -> list[HeadSlice]:
        names, d, size = self.layout.projections, self.head_dim, self.group_size
        if self.layout.split == "separate":
            return self._rows(names[1 + kind], group * d)
        if self.layout.split == "fused":
            return self._rows(names[0], (self.heads + kind * self.kv_heads + group) * d)
        return self._rows(names[0], (group * (size + 2) + size + kind) * d)

    def head_slices(self, head: int) -> list[HeadSlice]:
        """What a query head has for itself alone among the projections, the rows that read it last."""
        queries = [] if self.layout.whole_norm else self.query_slices(head)
        return [*queries, self.output_slice(head)]

    def group_slices(self, group: int) -> list[HeadSlice]:
        """What a KV group has for itself alone among the projections."""
        return self.value_slices(group) if self.layout.whole_norm else self.kv_slices(group)

    def own_parts(self, index: int, per: Literal["head", "group"]) -> list[HeadSlice]:
        """What holds an entry of its own for a query head or a KV group beside the projections: sinks, norms."""
        pieces = []
        for holder in self.holders(per):
            if isinstance(holder.held, nn.ModuleList):
                pieces += [HeadSlice(p, 0, 0, p.shape[0]) for p in holder.held[index].parameters()]
            else:
                pieces.append(HeadSlice(holder.held, 0, index, 1))
        return pieces

    def holders(self, per: Literal["head", "group"]) -> list[Holder]:
        """The parameters and lists of modules that hold one entry for each query head or KV group, where there are any."""
        found = []
        for name in self.layout.per_head if per == "head" else self.layout.per_group:
            path, _, leaf = name.rpartition(".")
            owner: Any = self.module
            for part in path.split(".") if path else ():
                owner = getattr(owner, part, None)
            if owner is not None and getattr(owner, leaf, None) is not None:
                found.append(Holder(owner, leaf))
        return found

    def projections(self) -> Iterator[nn.Module]:
        """The query / key / value projection modules."""
        for name in self.layout.projections:
            yield getattr(self.module, name)

    def _rows(self, projection: str, start: int) -> list[HeadSlice]:
        return rows_of(getattr(self.module, projection), start, self.head_dim)


class MlpBlock(Site):
    """One layer's MLP, cut into equal blocks of neurons.

    Args:
        module: The module that holds its projections.
        layout: Names of them.
        layer: Number of the layer.
        heads: Attention heads a layer; the MLP's units follow them in an (L, U) mask.
        count: Blocks of neurons; 0 when they are no units.

    Attributes:
        inputs: The projections that make the neurons.
        width: Number of neurons.

    Raises:
        InputError: The neurons cannot be cut into so many equal blocks.
    """

    kind = "mlp"

    def __init__(self, module: nn.Module, layout: Layout, layer: int, heads: int, count: int) -> None:
        self.module, self.layout, self.layer, self.count = module, layout, layer, count
        if not has_neurons(module, layout):
            raise InputError(
                f"{type(module).__name__} has no {' and '.join(layout.mlp_inputs) or 'projections'} whose neurons could be "
                "units (a mixture of experts has none): prune its heads only (mlp_blocks=0, units='heads'), or name an MLP's "
                "projections with Layout(mlp=..., mlp_inputs=..., mlp_output=...)"
            )
        self.inputs: list[nn.Module] = [getattr(module, name) for name in layout.mlp_inputs]
        self.output = getattr(module, layout.mlp_output)
        self.width = in_features(self.output)
        for name, projection in zip(layout.mlp_inputs, self.inputs, strict=True):
            if out_features(projection) % self.width:
                raise InputError(
                    f"the layout does not fit {type(module).__name__}: {name!r} makes {out_features(projection)} values, "
                    f"{layout.mlp_output!r} reads {self.width} neurons"
                )
        if count < 0 or (count and self.width % count):
            divisors = [n for n in range(1, 65) if self.width % n == 0]
            raise InputError(f"{self.width} neurons do not make {count} equal blocks: use one of {divisors}")
        self.columns = slice(heads, heads + count)
        self.unit_width = self.width // count if count else self.width

    def permute(self, order: Tensor) -> None:
        """Let neurons trade places: the one at ``order[i]`` comes to ``i``; the MLP computes the same.

        Weights get memory of their own, as others may read where they lie.
        """
        pieces = self._input_rows(0, self.width)
        pieces.append(
            HeadSlice(parameter_of(self.output, "weight"), int(not isinstance(self.output, Conv1D)), 0, self.width)
        )
        permuted = [piece.data.index_select(piece.dim, order) for piece in pieces]
        whole = {id(piece.parameter): piece.parameter for piece in pieces}
        for parameter in whole.values():
            parameter.data = parameter.data.clone()
        for piece, values in zip(pieces, permuted, strict=True):
            piece.data.copy_(values)

    def input_slices(self, block: int) -> list[HeadSlice]:
        """Rows of the input projections (weights and biases) that make a block's neurons."""
        return self._input_rows(block * self.unit_width, self.unit_width)

    def _input_rows(self, start: int, length: int) -> list[HeadSlice]:
        """Rows that make some neurons; a fused projection (gates, then ups) makes each neuron's values with several."""
        return [
            piece
            for module in self.inputs
            for offset in range(0, out_features(module), self.width)
            for piece in rows_of(module, offset + start, length)
        ]


def transformer_layers(model: nn.Module) -> list[nn.Module]:
    """The transformer blocks of a Hugging Face causal LM, in order.

    Raises:
        InputError: Unknown architecture, or not a causal LM.
    """
    layout = layout_of(model)
    try:
        return list(attrgetter(layout.layers)(model))
    except AttributeError as error:
        raise InputError(
            f"{type(model).__name__} has no {layout.layers!r}: wrap the causal LM itself (AutoModelForCausalLM)"
        ) from error


def attention_class(layout: Layout) -> type[nn.Module] | None:
    """The class that a model's attention modules become where the stock one goes past the attention interface."""
    module, _, name = layout.attention_class.partition(":")
    return getattr(importlib.import_module(module), name) if name else None


def attention_blocks(model: nn.Module) -> list[AttentionBlock]:
    """All attention layers of a Hugging Face causal LM, in order.

    Raises:
        InputError: Unknown architecture, or a model whose layers differ in their number of heads.
    """
    layout = layout_of(model)
    layers = transformer_layers(model)
    blocks = [AttentionBlock(getattr(layer, layout.attention), layout, i) for i, layer in enumerate(layers)]
    shapes = {(block.heads, block.kv_heads, block.head_dim) for block in blocks}
    if len(shapes) != 1:
        raise InputError(
            f"layers differ in (heads, kv_heads, head_dim): {sorted(shapes)}; only models whose layers are alike are supported"
        )
    for block, layer in zip(blocks, layers, strict=True):
        block.factor = float(getattr(layer, layout.residual_factor)) if layout.residual_factor else 1.0  # type: ignore[arg-type]
    return blocks


def cut_mlps(model: nn.Module, heads: int, count: int) -> list[MlpBlock]:
    """All MLPs of a Hugging Face causal LM, in order.

    Args:
        model: The causal LM.
        heads: Attention heads a layer.
        count: Blocks of neurons a layer; 0 when they are no units.

    Returns:
        One a layer; none where they are no units and the model has none of the layout's kind (a mixture of experts).

    Raises:
        InputError: Unknown architecture, or the neurons cannot be cut into so many equal blocks.
    """
    layout, layers = layout_of(model), transformer_layers(model)
    modules = [getattr(layer, layout.mlp) if layout.mlp else layer for layer in layers]
    if not count and not all(has_neurons(module, layout) for module in modules):
        return []
    mlps = [MlpBlock(module, layout, layer, heads, count) for layer, module in enumerate(modules)]
    for mlp, layer in zip(mlps, layers, strict=True):
        mlp.factor = float(getattr(layer, layout.residual_factor)) if layout.residual_factor else 1.0  # type: ignore[arg-type]
    return mlps


def has_neurons(module: nn.Module, layout: Layout) -> bool:
    """Whether a module has the projections of an MLP that the layout names."""
    return bool(layout.mlp_inputs) and all(hasattr(module, name) for name in (*layout.mlp_inputs, layout.mlp_output))


def in_order(blocks: list[AttentionBlock], mlps: list[MlpBlock]) -> list[Site]:
    """The sites of a model in execution order, each told its place."""
    pairs = zip(blocks, mlps, strict=True) if mlps else ((block,) for block in blocks)
    sites: list[Site] = [site for pair in pairs for site in pair]
    for index, site in enumerate(sites):
        site.index = index
    return sites


def layout_of(model: nn.Module) -> Layout:
    """The layout of a Hugging Face causal LM.

    Raises:
        InputError: Unknown architecture, or a compacted model.
    """
    if getattr(model.config, "kept_heads", None) is not None:
        raise InputError("a compacted model cannot be wrapped or cut again: keep the masked one and compact that again")
    return find_layout(str(getattr(model.config, "model_type", type(model).__name__)))  # type: ignore[union-attr]


__all__ = [
    "AttentionBlock",
    "HeadSlice",
    "Holder",
    "Layout",
    "MlpBlock",
    "Site",
    "attention_blocks",
    "attention_class",
    "cut_mlps",
    "find_layout",
    "in_order",
    "is_projection",
    "known_layouts",
    "layout_of",
    "register_layout",
    "transformer_layers",
]
