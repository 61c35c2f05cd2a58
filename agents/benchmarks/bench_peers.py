"""torch-pruning (https://github.com/VainF/Torch-Pruning, extra ``bench``) set to remove attention heads and nothing else."""

from __future__ import annotations

import copy
import sys
import warnings
from typing import Any

from torch import Tensor, nn

from plasticity_env.common.packages import missing
from plasticity_env.model.plastic_model import PlasticModel

PEER = "torch-pruning"


def why_not(model: PlasticModel) -> str | None:
    """Why torch-pruning cannot remove one head of each KV group of this model; None where it can.

    It removes equally many query heads of every group and leaves keys and values. It sees no Conv1D (GPT-2) and no
    interleaved q, k, v, and refuses where one query head a group would be left (release 1.6).
    """
    block = model.blocks[0]
    if block.layout.split != "separate":
        return "it needs separate q, k and v projections"
    if block.group_size <= 2 or model.kv_heads <= 1:
        return f"it needs several KV groups of more than two heads, not {model.kv_heads} of {block.group_size}"
    if missing("torch_pruning", "bench") is not None:
        return "it is not installed (pip install -e '.[bench]')"
    return None


def prune_one_head_per_group(model: PlasticModel, ids: Tensor) -> nn.Module:
    """A copy of the model without the head of each KV group that torch-pruning's Taylor importance ranks lowest.

    Its tracer needs eager attention, no KV cache, and a rotary embedding without ``cat``: with it, release 1.6 follows
    index mappings round for ever. Rotary embedding mixes inputs of one head alone, so leaving that out of the trace
    changes no group.

    Args:
        model: A dense model.
        ids: (n, T) calibration tokens.

    Returns:
        A Hugging Face causal LM with stock attention.
    """
    import torch_pruning as tp

    with model.open_gates():
        pruned: Any = copy.deepcopy(model.model)
    pruned.set_attn_implementation("sdpa")
    for block in ids.split(1):
        pruned(input_ids=block.to(model.device), labels=block.to(model.device), use_cache=False).loss.backward()
    layout, heads, groups = model.blocks[0].layout, model.heads, model.kv_heads
    attentions = [module for name, module in pruned.named_modules() if name.endswith("." + layout.attention)]
    counts: dict[nn.Module, int] = {}
    for attention in attentions:
        for name, count in zip(layout.projections, (heads, groups, groups), strict=True):
            counts[getattr(attention, name)] = count
    others = [module for module in pruned.modules() if not list(module.children()) and module not in counts]
    pruned.set_attn_implementation("eager")
    source = sys.modules[type(attentions[0]).__module__]
    rotate_half, use_cache = source.rotate_half, pruned.config.use_cache  # type: ignore[attr-defined]
    source.rotate_half, pruned.config.use_cache = _same, False  # type: ignore[attr-defined]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pruner = tp.pruner.BasePruner(
                pruned,
                ids[:1, :8].to(model.device),
                importance=tp.importance.GroupTaylorImportance(),
                pruning_ratio=groups / heads,  # of what is not ignored; 0 would skip the heads as well
                head_pruning_ratio=groups / heads,
                num_heads=counts,
                prune_num_heads=True,
                prune_head_dims=False,
                ignored_layers=others,
                output_transform=lambda output: output.logits,
            )
            pruner.step()
    finally:
        source.rotate_half, pruned.config.use_cache = rotate_half, use_cache  # type: ignore[attr-defined]
    for attention in attentions:
        attention.num_key_value_groups = heads // groups - 1
    pruned.zero_grad(set_to_none=True)
    pruned.set_attn_implementation("sdpa")
    return pruned.eval()  # type: ignore[no-any-return]


def _same(tensor: Tensor) -> Tensor:
    return tensor
