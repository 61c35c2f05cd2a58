"""What stays of each parameter when heads and neurons are removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from plasticity_env.model.layouts import AttentionBlock, HeadSlice, MlpBlock


@dataclass(frozen=True)
class Cut:
    """What stays of one parameter.

    Attributes:
        owner: The module that holds it.
        name: "weight" or "bias".
        dim: Along which dimension it is cut.
        kept: Indices that stay, ascending.
        scale: One factor for each of them (the gates of growing units, folded in), or None.
    """

    owner: nn.Module
    name: str
    dim: int
    kept: tuple[int, ...]
    scale: tuple[float, ...] | None = None

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter as it is now."""
        parameter = getattr(self.owner, self.name)
        assert isinstance(parameter, nn.Parameter)
        return parameter

    def of(self, tensor: Tensor, power: float = 0.0) -> Tensor:
        """A copy of what stays of a tensor shaped like the parameter, times the ``power``-th power of the scale."""
        index = torch.tensor(self.kept, dtype=torch.long, device=tensor.device)
        piece = tensor.index_select(self.dim, index)
        if self.scale is None or power == 0:
            return piece
        factors = torch.tensor(self.scale, device=tensor.device, dtype=torch.float32).pow(power)
        shape = [-1 if dim == self.dim else 1 for dim in range(piece.ndim)]
        return (piece * factors.view(shape)).to(piece.dtype)


def attention_cuts(block: AttentionBlock, heads: Sequence[int], scale: Sequence[float] | None = None) -> list[Cut]:
    """Cuts of a layer's q, k, v and output projections.

    Args:
        block: The attention of dense size.
        heads: Query heads that stay, ascending.
        scale: What each of them is multiplied by; None: 1.
    """
    groups = kept_groups(heads, block.group_size)
    pieces = [piece for head in heads for piece in block.head_slices(head)[:-1]]
    pieces += [piece for group in groups for piece in block.group_slices(group)]
    touched = {id(piece.parameter) for piece in pieces}
    cuts = [
        _cut(module, name, pieces)
        for module in block.projections()
        for name in _names(module)
        if not heads or id(getattr(module, name)) in touched  # under a norm over all heads some stay whole
    ]
    for kept, per in ((tuple(heads), "head"), (tuple(groups), "group")):
        held = block.holders(per)  # type: ignore[arg-type]
        cuts += [Cut(each.owner, each.name, 0, kept) for each in held if isinstance(each.held, nn.Parameter)]
    factors = None if scale is None else tuple(factor for factor in scale for _ in range(block.head_dim))
    outputs = [block.output_slice(head) for head in heads]
    return [*cuts, _cut(block.output, "weight", outputs, factors)]


def mlp_cuts(mlp: MlpBlock, neurons: Sequence[int], scale: Sequence[float] | None = None) -> list[Cut]:
    """Cuts of a layer's MLP projections.

    Args:
        mlp: The MLP of dense size.
        neurons: Neurons that stay, ascending.
        scale: What each of them is multiplied by; None: 1.
    """
    kept, factors = tuple(neurons), None if scale is None else tuple(scale)
    rows = [
        Cut(module, name, dim, _repeated(kept, mlp.width, getattr(module, name).shape[dim]))
        for module in mlp.inputs
        for name in _names(module)
        for dim in [_row_dim(module, name)]
    ]
    return [*rows, Cut(mlp.output, "weight", 1 - _row_dim(mlp.output, "weight"), kept, factors)]


def kept_groups(heads: Sequence[int], group_size: int) -> list[int]:
    """KV groups that still have a query head, ascending."""
    return sorted({head // group_size for head in heads})


def resize(module: nn.Module) -> None:
    """Let a projection say the sizes that its weight has."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    if isinstance(module, Conv1D):
        module.nx, module.nf = weight.shape
    else:
        module.out_features, module.in_features = weight.shape  # type: ignore[assignment]


def _cut(module: nn.Module, name: str, pieces: list[HeadSlice], scale: tuple[float, ...] | None = None) -> Cut:
    own = sorted((p for p in pieces if p.parameter is getattr(module, name)), key=lambda piece: piece.start)
    kept = tuple(i for piece in own for i in range(piece.start, piece.start + piece.length))
    return Cut(module, name, own[0].dim if own else 0, kept, scale)


def _repeated(kept: tuple[int, ...], width: int, size: int) -> tuple[int, ...]:
    """Rows that stay of a projection that makes ``size // width`` values of each neuron, one kind after the other."""
    return tuple(offset + index for offset in range(0, size, width) for index in kept)


def _names(module: nn.Module) -> list[str]:
    return ["weight"] if module.bias is None else ["weight", "bias"]


def _row_dim(module: nn.Module, name: str) -> int:
    return 1 if name == "weight" and isinstance(module, Conv1D) else 0
