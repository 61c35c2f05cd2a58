"""Requests of a batch, cut into the prefix that a router looks at and the rest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from plasticity_env.common.errors import InputError


@dataclass(frozen=True)
class Requests:
    """B texts, padded on the left.

    For generation with a cache the padding moves: prefixes come first, side by side, then the padding, then the rest of each
    text, so that one forward reads all prefixes and the next all the rest.

    Attributes:
        ids, mask: (B, T) tokens, and 1 for text.
        lengths: (B,) tokens of each text.
        prefix: (B,) tokens of each prefix: at most P, and at least one token fewer than the text.
        columns: Columns of the longest prefix.
        moved, moved_mask: (B, T') prefixes, padding, rest.
    """

    ids: Tensor
    mask: Tensor
    lengths: Tensor
    prefix: Tensor
    columns: int
    moved: Tensor
    moved_mask: Tensor

    @classmethod
    def cut(cls, input_ids: Tensor, attention_mask: Tensor | None, prefix_tokens: int) -> Requests:
        """Cut a batch.

        Args:
            input_ids: (B, T), T >= 2.
            attention_mask: (B, T), 1 for text; None when nothing is padded.
            prefix_tokens: P.

        Raises:
            InputError: Another shape, padding that is not on the left, or a text of fewer than two tokens.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask.long()
        if input_ids.ndim != 2 or mask.shape != input_ids.shape:
            raise InputError(
                f"input_ids and attention_mask must be (requests, tokens) of one shape, got {tuple(input_ids.shape)} and "
                f"{tuple(mask.shape)}"
            )
        if bool((mask[:, 1:] < mask[:, :-1]).any()):
            raise InputError("requests are padded on the left: set tokenizer.padding_side = 'left'")
        lengths = mask.sum(1)
        if int(lengths.min()) < 2:
            raise InputError("a request needs at least two tokens: one that a router looks at, one that it decides for")
        prefix = (lengths - 1).clamp(max=prefix_tokens)
        columns, rest = int(prefix.max()), int((lengths - prefix).max())
        batch, tokens = input_ids.shape
        moved = input_ids.new_zeros(batch, columns + rest)
        moved_mask = mask.new_zeros(batch, columns + rest)
        for row in range(batch):
            text, first = input_ids[row, tokens - int(lengths[row]) :], int(prefix[row])
            for end, part in ((columns, text[:first]), (columns + rest, text[first:])):
                moved[row, end - len(part) : end] = part
                moved_mask[row, end - len(part) : end] = 1
        return cls(input_ids, mask, lengths, prefix, columns, moved, moved_mask)

    @property
    def places(self) -> Tensor:
        """(B, T) place of each token in its text; 0 where there is padding."""
        return (self.mask.cumsum(1) - 1).clamp(min=0)

    @property
    def prefix_ids(self) -> Tensor:
        """(B, P) the prefixes, padded on the left."""
        return self.moved[:, : self.columns]

    @property
    def prefix_mask(self) -> Tensor:
        """(B, P), 1 for text."""
        return self.moved_mask[:, : self.columns]

    @property
    def prefix_places(self) -> Tensor:
        """(B, P) place of each token; 0 where there is padding."""
        return (self.prefix_mask.cumsum(1) - 1).clamp(min=0)

    def rows(self, numbers: Tensor) -> Requests:
        """Some of the texts, padded as they are."""
        numbers = numbers.to(self.ids.device)
        parts = (self.ids, self.mask, self.lengths, self.prefix, self.moved, self.moved_mask)
        ids, mask, lengths, prefix, moved, moved_mask = (part[numbers] for part in parts)
        return Requests(ids, mask, lengths, prefix, self.columns, moved, moved_mask)

    def continued(self, new: Tensor) -> Tensor:
        """(B * m, T + N) the texts as they came in, followed by N tokens of each of m continuations."""
        return torch.cat([self.ids.repeat_interleave(len(new) // len(self.ids), 0), new], 1)
