"""What a compacted model computes where a stock one cannot: uneven KV groups, and layers that lost a whole part."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache, DynamicLayer
from transformers.masking_utils import sdpa_mask

from plasticity_env.model.score_terms import attend, with_sinks

IMPLEMENTATION = "compact"


@dataclass(frozen=True)
class KvRun:
    """Neighbouring KV groups of one size; it stands for the attention module in a stock attention call.

    Attributes:
        heads, groups: How many query heads and KV groups it has.
        num_key_value_groups: Query heads a group, under the name that stock attention looks for.
        is_causal: The same as of the attention module.
    """

    heads: int
    groups: int
    num_key_value_groups: int
    is_causal: bool = True


def kv_runs(kv_index: Sequence[int], is_causal: bool = True) -> tuple[KvRun, ...]:
    """Split heads into runs of evenly shared KV groups, from the (ascending) KV group of each head.

    >>> [(run.heads, run.groups) for run in kv_runs([0, 0, 1, 1, 2])]
    [(4, 2), (1, 1)]
    """
    sizes = [kv_index.count(group) for group in sorted(set(kv_index))]
    same = [(size, len(list(members))) for size, members in itertools.groupby(sizes)]
    return tuple(KvRun(size * groups, groups, size, is_causal) for size, groups in same)


@dataclass(frozen=True)
class Selected:
    """Which query heads and KV groups are left of queries and keys that are computed whole, for a norm over all of them."""

    heads: tuple[int, ...]
    groups: tuple[int, ...]


class LayerConfig:
    """A configuration as one layer's attention reads it: its own numbers of heads, all else as the model's says.

    Args:
        config: Configuration of the model.
        **values: What this layer has of its own.
    """

    def __init__(self, config: Any, **values: int) -> None:
        self.__dict__.update(values, _config=config)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_config" not in self.__dict__:  # a copy is being made
            raise AttributeError(name)
        return getattr(self.__dict__["_config"], name)


def compact_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Stock scaled-dot-product attention; where KV groups are uneven, one call for each run of groups of one size.

    No keys or values are copied so: a copy for each head, by index, took 1.2 to 12 times as long when decoding.

    Args:
        module: The attention module; its ``kv_runs`` say how its heads share KV groups, None where they do evenly.
        query: (B, H, T, D).
        key, value: (B, G, T', D).
        attention_mask: None, or boolean / additive (B, 1 or H, T, T').
        scaling: Factor on the scores, 1 / sqrt(D) when None.
        softcap: Bound of the scores, or None.
        s_aux: (H,) scores of attention sinks, or None.
        **kwargs: Further arguments of the stock function.

    Returns:
        (B, T, H, D), and None in the place of the attention weights.
    """
    selected: Selected | None = getattr(module, "selected", None)
    if selected is not None:
        query, key = query[:, list(selected.heads)], key[:, list(selected.groups)]
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if s_aux is not None:
        causal = bool(getattr(module, "is_causal", True))
        query, key, value, attention_mask = with_sinks(query, key, value, attention_mask, s_aux, scaling, causal)
    kwargs |= {"scaling": scaling, "softcap": softcap}
    runs: tuple[KvRun, ...] | None = getattr(module, "kv_runs", None)
    if runs is None:
        return attend(module, query, key, value, attention_mask, **kwargs), None
    outputs, head, group = [], 0, 0
    for run in runs:
        queries = query.narrow(1, head, run.heads)
        keys, values = key.narrow(1, group, run.groups), value.narrow(1, group, run.groups)
        mask = attention_mask
        if mask is not None and mask.shape[1] > 1:
            mask = mask.narrow(1, head, run.heads)
        outputs.append(attend(run, queries, keys, values, mask, **kwargs))  # (B, T, run.heads, D)
        head, group = head + run.heads, group + run.groups
    return torch.cat(outputs, 2), None


class NoKeys(DynamicLayer):
    """Entry of a KV cache for a layer without attention: it holds nothing, and is as long as the first that holds keys.

    transformers reads the length of the whole cache from layer 0.

    Args:
        cache: Cache that it is an entry of.
    """

    supports_early_init = False
    is_compileable = True  # says nothing against a static cache: those of the other layers decide

    def __init__(self, cache: Cache) -> None:
        super().__init__()
        self._cache = cache

    def _first_with_keys(self) -> Any | None:
        entries: list[Any] = [entry for entry in self._cache.layers if not isinstance(entry, NoKeys)]
        return next((e for e in entries if not getattr(e, "is_sliding", False)), entries[0] if entries else None)

    def get_seq_length(self) -> int:
        """Number of tokens seen."""
        other = self._first_with_keys()
        return 0 if other is None else other.get_seq_length()  # type: ignore[no-any-return]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the keys that a mask covers."""
        other = self._first_with_keys()
        return (query_length, 0) if other is None else other.get_mask_sizes(query_length)

    def _nothing(self, *args: Any, **kwargs: Any) -> None:
        """There is nothing to move, cut, reorder or reset."""

    offload = prefetch = reset = reorder_cache = crop = batch_repeat_interleave = batch_select_indices = _nothing


class Remainder(nn.Module):
    """What is left of an output projection that reads nothing: its bias, or nothing.

    Args:
        bias: (E,) or None.
    """

    def __init__(self, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.bias = bias

    def forward(self, hidden: Tensor) -> Tensor:
        """The bias (or zeros) in the shape of a hidden state (..., E)."""
        rest = hidden.new_zeros(()) if self.bias is None else self.bias
        return rest.expand(hidden.shape).clone()  # no view, which could not be added to in place (Falcon)


class RemovedMlp(nn.Module):
    """A layer's MLP without neurons.

    Args:
        output: Name of its output projection, of which the bias may be left.
        bias: (E,) or None.
    """

    def __init__(self, output: str, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.add_module(output, Remainder(bias))

    def forward(self, hidden: Tensor) -> Tensor:
        """The remainder, (..., E)."""
        (remainder,) = self.children()
        return remainder(hidden)  # type: ignore[no-any-return]


class RemovedAttention(RemovedMlp):
    """A layer's attention without heads: it computes nothing and keeps nothing in the KV cache.

    Args:
        output: Name of its output projection, of which the bias may be left.
        bias: (E,) or None.
        layer: Number of the layer, as the cache counts.
    """

    def __init__(self, output: str, bias: nn.Parameter | None, layer: int) -> None:
        super().__init__(output, bias)
        self.layer = layer

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:  # type: ignore[override]
        """The remainder, (..., E), and None in the place of the attention weights."""
        for value in (*args, *kwargs.values()):
            if isinstance(value, Cache):
                self._mark(getattr(value, "self_attention_cache", value))
        return super().forward(hidden_states), None

    def _mark(self, cache: Cache) -> None:
        """Put an entry into the cache that says so."""
        while len(cache.layers) <= self.layer:
            cache.layers.append(NoKeys(cache))
        if not isinstance(cache.layers[self.layer], NoKeys):
            cache.layers[self.layer] = NoKeys(cache)


AttentionInterface.register(IMPLEMENTATION, compact_attention)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
