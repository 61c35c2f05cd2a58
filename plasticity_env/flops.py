"""Forward FLOPs of the whole model, LM head included, as a function of which heads are left.

Convention of ``torch.utils.flop_counter.FlopCounterMode`` with the math attention kernel: a multiply-add is 2 FLOPs,
attention counts the full T x T, and norms, activations, rotary embedding and softmax count nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plasticity_env.errors import InputError
from plasticity_env.layouts import is_projection
from plasticity_env.model import PlasticModel


@dataclass(frozen=True)
class CostTable:
    """Cost of a model as a sum over what its heads and KV groups need; removing a head removes its rows for real.

    Attributes:
        base: Cost of everything that no head owns.
        head: Cost of one query head (its q rows, its o rows, its attention).
        group: Cost of one KV group (its k and v rows); goes with the group's last head.
        group_size: Query heads per KV group.
    """

    base: float
    head: float
    group: float
    group_size: int

    def total(self, active: Tensor) -> float:
        """Cost with only the heads where ``active`` ((L, H) boolean) is True."""
        groups = active.view(active.shape[0], -1, self.group_size).any(2)
        return self.base + self.head * float(active.sum()) + self.group * float(groups.sum())

    def marginal(self, active: Tensor) -> Tensor:
        """(L, H): what flipping each head alone changes (its cost if active, what it would cost if pruned)."""
        layers, heads = active.shape
        grouped = active.view(layers, -1, self.group_size)
        others = grouped.sum(2, keepdim=True) - grouped.int()
        return self.head + self.group * (others == 0).double().view(layers, heads)


def flop_table(model: PlasticModel, seq_len: int) -> CostTable:
    """Forward FLOPs per token at sequence length ``seq_len``.

    Raises:
        InputError: ``seq_len`` below 1.
    """
    if seq_len < 1:
        raise InputError(f"seq_len {seq_len} is too short: at least 1 token")
    dense = sum(2.0 * _weight(module).numel() for module in model.model.modules() if is_projection(module))
    block = model.blocks[0]
    queries = sum(piece.data.numel() for piece in block.query_slices(0) if piece.data.ndim == 2)
    outputs = block.output_slice(0).data.numel()
    keys = sum(piece.data.numel() for piece in block.kv_slices(0) if piece.data.ndim == 2)
    attention = 2 * 2.0 * seq_len * block.head_dim  # q k^T and p v for one token of one head
    layers, heads = model.shape
    owned = layers * (heads * 2.0 * (queries + outputs) + model.kv_heads * 2.0 * keys)
    return CostTable(dense - owned, 2.0 * (queries + outputs) + attention, 2.0 * keys, block.group_size)


def parameter_table(model: PlasticModel) -> CostTable:
    """Parameters, tied weights counted once."""
    block = model.blocks[0]
    head = sum(piece.data.numel() for piece in [*block.query_slices(0), block.output_slice(0)])
    group = sum(piece.data.numel() for piece in block.kv_slices(0))
    layers, heads = model.shape
    total = sum(parameter.numel() for parameter in model.model.parameters())
    return CostTable(float(total - layers * (heads * head + model.kv_heads * group)), head, group, block.group_size)


def flops(model: PlasticModel, seq_len: int) -> float:
    """Forward FLOPs per token of the model as if its pruned heads were removed.

    Args:
        model: Its active heads count.
        seq_len: T; attention costs 4 T D per head and token.
    """
    return flop_table(model, seq_len).total(model.active)


def _weight(module: nn.Module) -> Tensor:
    assert isinstance(module.weight, torch.Tensor)
    return module.weight
