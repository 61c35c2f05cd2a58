"""torch-pruning's Taylor importance of attention heads, on any architecture (extra ``bench``).

Its tracer follows neither GPT-2's Conv1D nor fused or interleaved q, k and v. So each layer's attention is laid out as four
plain linear layers that hold the layer's own weights and gradients; torch-pruning traces that, groups what belongs to a
head, scores it and normalises each layer's scores by their mean, as it does before it ranks heads over the whole model.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from plasticity_env.common.packages import require
from plasticity_env.model.layouts import AttentionBlock, HeadSlice, attention_blocks
from plasticity_env.model.plastic_model import PlasticModel

_TRACED = 4  # tokens of the example that is traced; the groups do not depend on it


class PlainAttention(nn.Module):
    """Attention as torch-pruning's tracer can follow it; rotary embedding and norms, which mix no heads, are left out.

    Args:
        heads, kv_heads, head_dim, inputs, outputs: Sizes.
    """

    def __init__(self, heads: int, kv_heads: int, head_dim: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        self.query = nn.Linear(inputs, heads * head_dim, bias=False)
        self.key = nn.Linear(inputs, kv_heads * head_dim, bias=False)
        self.value = nn.Linear(inputs, kv_heads * head_dim, bias=False)
        self.output = nn.Linear(heads * head_dim, outputs, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        batch, tokens, _ = hidden.shape
        q, k, v = (
            project(hidden).view(batch, tokens, -1, self.head_dim).transpose(1, 2)  # (B, H or G, T, D)
            for project in (self.query, self.key, self.value)
        )
        if self.kv_heads < self.heads:
            k, v = (self._repeat(each) for each in (k, v))
        mixed = (q @ k.transpose(2, 3)).softmax(-1) @ v  # (B, H, T, D)
        return self.output(mixed.transpose(1, 2).reshape(batch, tokens, -1))  # type: ignore[no-any-return]

    def _repeat(self, states: Tensor) -> Tensor:
        batch, groups, tokens, width = states.shape
        wide = states[:, :, None].expand(batch, groups, self.heads // groups, tokens, width)
        return wide.reshape(batch, self.heads, tokens, width)


def taylor_importance(model: PlasticModel, ids: Tensor) -> Tensor:
    """torch-pruning's ``GroupTaylorImportance`` of every head.

    Args:
        model: Dense; left as it is.
        ids: (n, T) calibration tokens; their gradients are summed.

    Returns:
        (L, H) float32 on the CPU, larger = more important, comparable over layers (each has mean 1).

    Raises:
        InputError: torch-pruning is not installed.
    """
    require("torch_pruning", "bench")
    with model.open_gates():
        whole: Any = copy.deepcopy(model.model)
    whole.set_attn_implementation("sdpa")
    whole.requires_grad_(True)
    for block in ids.split(1):
        tokens = block.to(model.device)
        whole(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
    return torch.stack([_layer_importance(block) for block in attention_blocks(whole)])


def _layer_importance(block: AttentionBlock) -> Tensor:
    import torch_pruning as tp

    plain = _plain(block)
    seen: list[Tensor] = []

    class Watched(tp.importance.GroupTaylorImportance):  # type: ignore[misc]
        """Keeps what it says of the group that reads the heads' outputs."""

        def __call__(self, group: Any) -> Tensor:
            found = super().__call__(group)
            if group[0].dep.target.module is plain.output:
                seen.append(found)
            return found  # type: ignore[no-any-return]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner = tp.pruner.BasePruner(
            plain,
            torch.randn(1, _TRACED, plain.query.in_features),
            importance=Watched(),
            pruning_ratio=0.5,
            head_pruning_ratio=0.5,
            num_heads={plain.query: block.heads, plain.key: block.kv_heads, plain.value: block.kv_heads},
            prune_num_heads=True,
            prune_head_dims=False,
            ignored_layers=[plain.output],
        )
        next(iter(pruner.step(interactive=True)), None)  # scores everything before it offers the first group
    assert len(seen) == 1
    return seen[0].view(block.heads, -1).mean(1).float().cpu()


def _plain(block: AttentionBlock) -> PlainAttention:
    """A layer's attention with its weights and gradients, on the CPU."""
    rows: dict[str, list[HeadSlice]] = {"query": [], "key": [], "value": []}
    for head in range(block.heads):
        rows["query"].append(_weight(block.query_slices(head)))
    for group in range(block.kv_heads):
        pieces = block.kv_slices(group)
        rows["key"].append(_weight(pieces[: len(pieces) // 2]))
        rows["value"].append(_weight(pieces[len(pieces) // 2 :]))
    rows["output"] = [block.output_slice(head) for head in range(block.heads)]
    written = _matrix(rows["output"][0], rows["output"][0].data).shape[1]
    read = _matrix(rows["query"][0], rows["query"][0].data).shape[1]
    plain = PlainAttention(block.heads, block.kv_heads, block.head_dim, read, written)
    for name, pieces in rows.items():
        linear = getattr(plain, name)
        values, slopes = [], []
        for piece in pieces:
            assert piece.parameter.grad is not None
            values.append(_matrix(piece, piece.data))
            slopes.append(_matrix(piece, piece.narrow(piece.parameter.grad)))
        weight, slope = (torch.cat(parts).float().cpu() for parts in (values, slopes))
        if name == "output":
            weight, slope = weight.t().contiguous(), slope.t().contiguous()
        linear.weight = nn.Parameter(weight)
        linear.weight.grad = slope
    return plain


def _weight(pieces: list[HeadSlice]) -> HeadSlice:
    """The piece of a weight matrix among those of weight and bias."""
    return next(piece for piece in pieces if piece.parameter.ndim == 2)


def _matrix(piece: HeadSlice, part: Tensor) -> Tensor:
    """(D, other side) a head's piece of a matrix, its own rows first."""
    return part.detach() if piece.dim == 0 else part.detach().t()
