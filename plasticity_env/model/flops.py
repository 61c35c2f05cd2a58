"""Forward FLOPs of the whole model, LM head included, as a function of which units are left.

Convention of ``torch.utils.flop_counter.FlopCounterMode`` with the math attention kernel: a multiply-add is 2 FLOPs,
attention counts the full T x T, and norms, activations, rotary embedding and softmax count nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plasticity_env.common.errors import InputError
from plasticity_env.model.compact.classes import AttentionLeft, attention_left, is_compact
from plasticity_env.model.layouts import HeadSlice, attention_blocks, is_projection
from plasticity_env.model.plastic_model import PlasticModel


@dataclass(frozen=True)
class CostTable:
    """Cost of a model as a sum over what its units and KV groups need; removing a unit removes its rows for real.

    Attributes:
        base: Cost of everything that no unit owns.
        head: Cost of one query head (its q rows, its o rows, its attention).
        group: Cost of one KV group (its k and v rows); goes with the group's last head.
        layer: Cost of what a layer's heads share (q and k rows under a norm over all heads); goes with the layer's last head.
        group_size: Query heads per KV group.
        block: Cost of one MLP block (the rows that make its neurons and the rows that read them).
        heads: Query heads a layer; the columns of a mask after them are MLP blocks. None: all columns are heads.
    """

    base: float
    head: float
    group: float
    group_size: int
    block: float = 0.0
    heads: int | None = None
    layer: float = 0.0

    def total(self, active: Tensor) -> float:
        """Cost with only the units where ``active`` ((L, U) boolean) is True."""
        return float(self.totals(active))

    def totals(self, active: Tensor) -> Tensor:
        """Cost of each of several masks: (...) float64 from (..., L, U) boolean."""
        heads, blocks = active[..., : self.heads], active[..., self._heads(active) :]
        groups = heads.unflatten(-1, (-1, self.group_size)).any(-1)
        units = self.head * heads.sum((-2, -1)).double() + self.block * blocks.sum((-2, -1)).double()
        shared = self.group * groups.sum((-2, -1)).double() + self.layer * heads.any(-1).sum(-1).double()
        return self.base + units + shared

    def marginal(self, active: Tensor) -> Tensor:
        """(..., L, U): what flipping each unit alone changes (its cost if active, what it would cost if pruned)."""
        heads = active[..., : self.heads]
        grouped = heads.unflatten(-1, (-1, self.group_size))
        others = grouped.sum(-1, keepdim=True) - grouped.int()
        cost = torch.full(active.shape, self.block, dtype=torch.float64)
        alone = heads.sum(-1, keepdim=True) - heads.int() == 0  # no other head is left in the layer
        shared = self.group * (others == 0).double().view(heads.shape) + self.layer * alone.double()
        cost[..., : self.heads] = self.head + shared
        return cost

    def _heads(self, active: Tensor) -> int:
        return active.shape[-1] if self.heads is None else self.heads


def flop_table(model: PlasticModel, seq_len: int) -> CostTable:
    """Forward FLOPs per token at sequence length ``seq_len``, U-Net skips included.

    Raises:
        InputError: ``seq_len`` below 1.
    """
    _check_length(seq_len)
    dense = _projections(model.model) + model.skip_flops
    attention = 2 * 2.0 * seq_len * model.blocks[0].head_dim  # q k^T and p v for one token of one head
    return _table(model, dense, [2.0 * cost for cost in _parts(model, matrices=True)], attention)


def parameter_table(model: PlasticModel) -> CostTable:
    """Parameters, tied weights counted once; norms that go with a layer's last unit are not taken off."""
    total = sum(parameter.numel() for parameter in model.model.parameters())
    return _table(model, float(total), _parts(model, matrices=False))


def kv_cache_table(model: PlasticModel) -> CostTable:
    """Bytes that one more token adds to the KV cache (in layers with a sliding window: until the window is full)."""
    block = model.blocks[0]
    width = float(block.head_dim * model.dtype.itemsize)
    if block.layout.whole_norm:  # keys stay whole
        return CostTable(0.0, 0.0, width, block.group_size, 0.0, model.heads, width * block.kv_heads)
    return CostTable(0.0, 0.0, 2.0 * width, block.group_size, 0.0, model.heads)


def flops(model: PlasticModel | nn.Module, seq_len: int) -> float:
    """Forward FLOPs per token of a model; of a masked one as if its pruned units were removed.

    Args:
        model: Masked (its active units count), compacted, or a stock causal LM.
        seq_len: T; attention costs 4 T D per head and token.

    Raises:
        InputError: ``seq_len`` below 1, or an unknown architecture.
    """
    if isinstance(model, PlasticModel):
        return flop_table(model, seq_len).total(model.active)
    _check_length(seq_len)
    left = _attention_left(model)
    return _projections(model) + 2 * 2.0 * seq_len * left.head_dim * left.heads


def kv_cache_bytes(model: PlasticModel | nn.Module) -> float:
    """Bytes that one more token adds to a sequence's KV cache.

    Args:
        model: Masked (as if its pruned units were removed), compacted, or a stock causal LM.

    Raises:
        InputError: If its architecture is unknown.
    """
    if isinstance(model, PlasticModel):
        return kv_cache_table(model).total(model.active)
    left = _attention_left(model)
    return float((left.key_groups + left.groups) * left.head_dim * next(model.parameters()).dtype.itemsize)


def _check_length(seq_len: int) -> None:
    if seq_len < 1:
        raise InputError(f"seq_len {seq_len} is too short: at least 1 token")


def _projections(model: nn.Module) -> float:
    """The summed sizes of the weight matrices that a token meets; in a mixture of experts it meets some of them."""
    total = 0.0
    for module in model.modules():
        own = [parameter for parameter in module.parameters(recurse=False) if parameter.ndim == 3]  # (experts, .., ..)
        if own and hasattr(module, "num_experts"):
            share = float(model.config.num_experts_per_tok / len(own[0]))  # type: ignore[union-attr, operator, arg-type]
            total += sum(2.0 * parameter.numel() * share for parameter in own)
        elif is_projection(module) or (
            hasattr(module, "top_k") and hasattr(module, "weight")
        ):  # a router is no nn.Linear
            total += 2.0 * _weight(module).numel()
    return total


def _attention_left(model: nn.Module) -> AttentionLeft:
    """What is left of the attention of the whole model."""
    if is_compact(model):
        return attention_left(model)  # type: ignore[arg-type]
    blocks = attention_blocks(model)
    groups = sum(block.kv_heads for block in blocks)
    return AttentionLeft(sum(block.heads for block in blocks), groups, groups, blocks[0].head_dim)


def _parts(model: PlasticModel, matrices: bool) -> list[float]:
    """Parameters of a head, a KV group, an MLP block and what a layer's heads share; of weight matrices alone, or of all."""

    def count(pieces: list[HeadSlice]) -> float:
        return float(sum(piece.data.numel() for piece in pieces if piece.data.ndim == 2 or not matrices))

    block = model.blocks[0]
    head, group, layer = block.head_slices(0), block.group_slices(0), []
    if not matrices:
        head, group = head + block.own_parts(0, "head"), group + block.own_parts(0, "group")
    if block.layout.whole_norm:
        layer += [piece for head in range(block.heads) for piece in block.query_slices(head)]
        layer += [piece for group in range(block.kv_heads) for piece in block.key_slices(group)]
    mlp = model.mlps[0] if model.mlp_blocks else None
    neurons = [] if mlp is None else [*mlp.input_slices(0), mlp.output_slice(0)]
    return [count(pieces) for pieces in (head, group, neurons, layer)]


def _table(model: PlasticModel, dense: float, parts: list[float], attention: float = 0.0) -> CostTable:
    head, group, block, layer = parts
    owned = model.shape[0] * (model.heads * head + model.kv_heads * group + model.mlp_blocks * block + layer)
    size = model.blocks[0].group_size
    return CostTable(dense - owned, head + attention, group, size, block, model.heads, layer)


def _weight(module: nn.Module) -> Tensor:
    assert isinstance(module.weight, torch.Tensor)
    return module.weight
