"""Forward FLOPs of the whole model, LM head included, as a function of which units are left.

Convention of ``torch.utils.flop_counter.FlopCounterMode`` with the math attention kernel: a multiply-add is 2 FLOPs,
attention counts the full T x T, and norms, activations, rotary embedding and softmax count nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plasticity_env.common.errors import InputError
from plasticity_env.model.compact.classes import attention_left, is_compact
from plasticity_env.model.layouts import HeadSlice, attention_blocks, is_projection
from plasticity_env.model.plastic_model import PlasticModel


@dataclass(frozen=True)
class CostTable:
    """Cost of a model as a sum over what its units and KV groups need; removing a unit removes its rows for real.

    Attributes:
        base: Cost of everything that no unit owns.
        head: Cost of one query head (its q rows, its o rows, its attention).
        group: Cost of one KV group (its k and v rows); goes with the group's last head.
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

    def total(self, active: Tensor) -> float:
        """Cost with only the units where ``active`` ((L, U) boolean) is True."""
        return float(self.totals(active))

    def totals(self, active: Tensor) -> Tensor:
        """Cost of each of several masks: (...) float64 from (..., L, U) boolean."""
        heads, blocks = active[..., : self.heads], active[..., self._heads(active) :]
        groups = heads.unflatten(-1, (-1, self.group_size)).any(-1)
        units = self.head * heads.sum((-2, -1)).double() + self.block * blocks.sum((-2, -1)).double()
        return self.base + units + self.group * groups.sum((-2, -1)).double()

    def marginal(self, active: Tensor) -> Tensor:
        """(..., L, U): what flipping each unit alone changes (its cost if active, what it would cost if pruned)."""
        heads = active[..., : self.heads]
        grouped = heads.unflatten(-1, (-1, self.group_size))
        others = grouped.sum(-1, keepdim=True) - grouped.int()
        cost = torch.full(active.shape, self.block, dtype=torch.float64)
        cost[..., : self.heads] = self.head + self.group * (others == 0).double().view(heads.shape)
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
    head, group, block = (2.0 * cost for cost in _parts(model, matrices=True))
    return _table(model, dense, head, group, block, attention)


def parameter_table(model: PlasticModel) -> CostTable:
    """Parameters, tied weights counted once; norms that go with a layer's last unit are not taken off."""
    total = sum(parameter.numel() for parameter in model.model.parameters())
    return _table(model, float(total), *_parts(model, matrices=False))


def kv_cache_table(model: PlasticModel) -> CostTable:
    """Bytes that one more token adds to the KV cache (in layers with a sliding window: until the window is full)."""
    block = model.blocks[0]
    return CostTable(0.0, 0.0, 2.0 * block.head_dim * model.dtype.itemsize, block.group_size, 0.0, model.heads)


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
    heads, _, head_dim = _attention_left(model)
    return _projections(model) + 2 * 2.0 * seq_len * head_dim * heads


def kv_cache_bytes(model: PlasticModel | nn.Module) -> float:
    """Bytes that one more token adds to a sequence's KV cache.

    Args:
        model: Masked (as if its pruned units were removed), compacted, or a stock causal LM.

    Raises:
        InputError: Unknown architecture.
    """
    if isinstance(model, PlasticModel):
        return kv_cache_table(model).total(model.active)
    _, groups, head_dim = _attention_left(model)
    return 2.0 * groups * head_dim * next(model.parameters()).dtype.itemsize


def _check_length(seq_len: int) -> None:
    if seq_len < 1:
        raise InputError(f"seq_len {seq_len} is too short: at least 1 token")


def _projections(model: nn.Module) -> float:
    return sum(2.0 * _weight(module).numel() for module in model.modules() if is_projection(module))


def _attention_left(model: nn.Module) -> tuple[int, int, int]:
    """Query heads and KV groups of the whole model, and the width of a head."""
    if is_compact(model):
        return attention_left(model)  # type: ignore[arg-type]
    blocks = attention_blocks(model)
    return sum(block.heads for block in blocks), sum(block.kv_heads for block in blocks), blocks[0].head_dim


def _parts(model: PlasticModel, matrices: bool) -> tuple[float, float, float]:
    """Parameters of a head, of a KV group and of an MLP block; of weight matrices alone, or of biases too."""

    def count(pieces: list[HeadSlice]) -> float:
        return float(sum(piece.data.numel() for piece in pieces if piece.data.ndim == 2 or not matrices))

    block, mlp = model.blocks[0], model.mlps[0]
    head = count([*block.query_slices(0), block.output_slice(0)])
    neurons = count([*mlp.input_slices(0), mlp.output_slice(0)]) if mlp.count else 0.0
    return head, count(block.kv_slices(0)), neurons


def _table(
    model: PlasticModel, dense: float, head: float, group: float, block: float, attention: float = 0.0
) -> CostTable:
    owned = model.shape[0] * (model.heads * head + model.kv_heads * group + model.mlp_blocks * block)
    return CostTable(dense - owned, head + attention, group, model.blocks[0].group_size, block, model.heads)


def _weight(module: nn.Module) -> Tensor:
    assert isinstance(module.weight, torch.Tensor)
    return module.weight
