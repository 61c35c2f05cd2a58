"""Falcon's attention by way of transformers' attention interface, which the stock module goes past.

The stock module calls its kernel itself, so that no gate could reach its heads, and it repeats keys and values for every
head before it caches them. This one computes the same from the same weights and hands queries, keys and values, by KV
group, to the attention function that the configuration names.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.falcon.modeling_falcon import FALCON_ATTENTION_CLASSES, FalconAttention, apply_rotary_pos_emb

from plasticity_env.model.score_terms import with_key_bias


class GatedFalconAttention(FalconAttention):
    """A Falcon attention module of any number of heads in each KV group.

    Attributes:
        kept_heads: Query heads by their dense numbers; None for all.
        group_sizes: Query heads of each KV group; None where they are as many in each as the configuration says.
    """

    kept_heads: tuple[int, ...] | None = None
    group_sizes: tuple[int, ...] | None = None

    def sizes(self) -> tuple[int, ...]:
        """Query heads of each KV group."""
        if self.group_sizes is not None:
            return self.group_sizes
        groups = int(self.num_kv_heads or self.num_heads)
        return (self.num_heads // groups,) * groups

    @property
    def num_key_value_groups(self) -> int:
        """Query heads for each head of keys in a stock attention call."""
        return 1 if self.config.alibi else self.sizes()[0]

    def forward(
        self,
        hidden_states: Tensor,
        alibi: Tensor | None,
        attention_mask: Tensor | None,
        position_ids: Tensor | None = None,
        layer_past: Any = None,
        use_cache: bool = False,
        output_attentions: bool = False,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """The same as of the stock module; attention weights are not returned."""
        width, dropout = self.head_dim, 0.0  # stock attention drops nothing where positions are rotary
        rows = self.query_key_value(hidden_states)  # (B, T, sum over groups of m heads of (m + 2) D)
        pieces = rows.split([n for m in self.sizes() for n in (m * width, width, width)], -1)
        query, key, value = (
            torch.cat(pieces[kind::3], -1).unflatten(-1, (-1, width)).transpose(1, 2) for kind in range(3)
        )  # (B, H, T, D), (B, G, T, D) twice
        if position_embeddings is not None and alibi is None:
            query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        if layer_past is not None:
            key, value = layer_past.update(key, value, self.layer_idx)
        if alibi is not None:
            dropout = self.attention_dropout.p if self.training else 0.0
            repeats = torch.tensor(self.sizes(), device=key.device)
            key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)  # biases differ by head
            query, key, attention_mask = self._biased(query, key, alibi, attention_mask)
        attend = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
        out, weights = attend(self, query, key, value, attention_mask, scaling=width**-0.5, dropout=dropout)
        return self.dense(out.flatten(2)), weights

    def _biased(
        self, query: Tensor, key: Tensor, alibi: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Queries, keys and the mask of what is seen; the one that is handed in has the biases in it already.

        Args:
            query, key: (B, H, T or T', D).
            alibi: (B, dense H, 1, T').
            mask: (B, dense H, T, T') additive.
        """
        if self.kept_heads is not None:
            alibi = alibi[:, list(self.kept_heads)]
        scale = self.head_dim**-0.5
        query, key = with_key_bias(query, key, alibi * scale, scale)
        return query, key, None if mask is None else mask[:, :1] > torch.finfo(mask.dtype).min / 2


# Falcon's layers choose the class of their attention by the name of its implementation
FALCON_ATTENTION_CLASSES.update(plastic=GatedFalconAttention, compact=GatedFalconAttention)
