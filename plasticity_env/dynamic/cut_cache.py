"""The KV cache of a dense model as a compacted one goes on from it."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor
from transformers import DynamicCache

from plasticity_env.model.compact.modules import NoKeys
from plasticity_env.model.plastic_model import PlasticModel


def cut_cache(cache: Any, model: PlasticModel, active: Tensor, rows: Tensor, config: Any) -> DynamicCache:
    """Keys and values of some rows, those of KV groups without an active head cut out.

    Args:
        cache: Cache of the dense model.
        model: The dense model.
        active: (L, U) boolean, what the compacted model kept.
        rows: (b,) numbers of the sequences.
        config: Configuration of the compacted model.
    """
    cut = DynamicCache(config=config)
    cut.layers = []
    rows = rows.to(model.device)
    for layer, (block, held) in enumerate(zip(model.blocks, cache.layers, strict=True)):
        heads = active[layer, : model.heads].view(-1, block.group_size)
        groups = heads.any(1).nonzero().flatten().to(model.device)
        if not len(groups):
            cut.layers.append(NoKeys(cut))
            continue
        kept = copy.copy(held)
        keys, values = held.keys[rows], held.values[rows]
        kept.keys = keys if block.layout.whole_norm else keys[:, groups]
        kept.values = values[:, groups]
        cut.layers.append(kept)
    return cut
