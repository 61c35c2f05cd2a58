"""What a compacted model computes where a stock one cannot: uneven KV groups, and layers that lost a whole part."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache, DummyLayer
from transformers.masking_utils import sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

IMPLEMENTATION = "compact"
_stock = ALL_ATTENTION_FUNCTIONS["sdpa"]


def compact_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Stock scaled-dot-product attention; where KV groups are uneven, each head gets a copy of its group's keys and values.

    Args:
        module: The attention module; its ``kv_index`` names the KV group of each query head, None where groups are even.
        query: (B, H, T, D).
        key, value: (B, G, T', D).
        attention_mask: None, or boolean / additive (B, 1, T, T').
        **kwargs: As the stock function takes them.

    Returns:
        (B, T, H, D), and None in the place of the attention weights.
    """
    index: tuple[int, ...] | None = getattr(module, "kv_index", None)
    if index is not None:
        key, value = _spread(key, index), _spread(value, index)  # (B, H, T', D)
    return _stock(module, query, key, value, attention_mask, **kwargs)  # type: ignore[no-any-return]


def _spread(groups: Tensor, index: tuple[int, ...]) -> Tensor:
    """``groups[:, index]`` for an ascending index, without an index tensor to make and move to the device each time."""
    pieces = [groups[:, g : g + 1].expand(-1, index.count(g), -1, -1) for g in range(groups.shape[1])]
    return torch.cat(pieces, 1)


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
        rest = hidden.new_zeros(()) if self.bias is None else self.bias.clone()  # a view of a leaf confuses hooks
        return rest.expand(hidden.shape)


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
        layer: Which layer, as the cache counts.
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
        """Put an entry into the cache that says so: lengths are then read from the first layer that has attention."""
        while len(cache.layers) <= self.layer:
            cache.layers.append(DummyLayer())
        if not isinstance(cache.layers[self.layer], DummyLayer):
            cache.layers[self.layer] = DummyLayer()


AttentionInterface.register(IMPLEMENTATION, compact_attention)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
