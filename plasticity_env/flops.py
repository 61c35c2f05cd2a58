"""Forward FLOPs of the whole model, LM head included, as a function of which units are left.

Convention of ``torch.utils.flop_counter.FlopCounterMode`` with the math attention kernel: a multiply-add is 2 FLOPs,
attention counts the full T x T, and norms, activations, rotary embedding and softmax count nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plasticity_env.errors import InputError
from plasticity_env.layouts import HeadSlice, is_projection
from plasticity_env.model import PlasticModel


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
        heads, blocks = active[:, : self.heads], active[:, self._heads(active) :]
        groups = heads.reshape(len(heads), -1, self.group_size).any(2)
        units = self.head * float(heads.sum()) + self.block * float(blocks.sum())
        return self.base + units + self.group * float(groups.sum())

    def marginal(self, active: Tensor) -> Tensor:
        """(L, U): what flipping each unit alone changes (its cost if active, what it would cost if pruned)."""
        heads = active[:, : self.heads]
        grouped = heads.reshape(len(heads), -1, self.group_size)
        others = grouped.sum(2, keepdim=True) - grouped.int()
        cost = torch.full(active.shape, self.block, dtype=torch.float64)
        cost[:, : self.heads] = self.head + self.group * (others == 0).double().view(heads.shape)
        return cost

    def _heads(self, active: Tensor) -> int:
        return active.shape[1] if self.heads is None else self.heads


def flop_table(model: PlasticModel, seq_len: int) -> CostTable:
    """Forward FLOPs per token at sequence length ``seq_len``.

    Raises:
        InputError: ``seq_len`` below 1.
    """
    if seq_len < 1:
        raise InputError(f"seq_len {seq_len} is too short: at least 1 token")
    dense = sum(2.0 * _weight(module).numel() for module in model.model.modules() if is_projection(module))
    attention = 2 * 2.0 * seq_len * model.blocks[0].head_dim  # q k^T and p v for one token of one head
    head, group, block = (2.0 * cost for cost in _parts(model, matrices=True))
    return _table(model, dense, head, group, block, attention)


def parameter_table(model: PlasticModel) -> CostTable:
    """Parameters, tied weights counted once."""
    total = sum(parameter.numel() for parameter in model.model.parameters())
    return _table(model, float(total), *_parts(model, matrices=False))


def flops(model: PlasticModel, seq_len: int) -> float:
    """Forward FLOPs per token of the model as if its pruned units were removed.

    Args:
        model: Its active units count.
        seq_len: T; attention costs 4 T D per head and token.
    """
    return flop_table(model, seq_len).total(model.active)


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
