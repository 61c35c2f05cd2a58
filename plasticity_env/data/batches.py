"""Training text by number: micro-batch 0, 1, ..., the same whenever it is asked for, so that runs repeat and resume."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from plasticity_env.common.errors import InputError


class TokenBatch(NamedTuple):
    """One micro-batch of token ids.

    Attributes:
        input_ids: (B, T).
        attention_mask: (B, T), 1 for text and 0 for padding; None where nothing is padded.
    """

    input_ids: Tensor
    attention_mask: Tensor | None = None

    @property
    def targets(self) -> Tensor:
        """(B, T): the token that each position predicts, -100 where that does not count (the last one, padding)."""
        targets = torch.nn.functional.pad(self.input_ids[:, 1:], (0, 1), value=-100)
        if self.attention_mask is not None:
            counted = torch.nn.functional.pad(self.attention_mask[:, 1:] * self.attention_mask[:, :-1], (0, 1))
            targets = targets.masked_fill(counted == 0, -100)
        return targets

    def to(self, device: torch.device) -> TokenBatch:
        """The same on a device."""
        mask = None if self.attention_mask is None else self.attention_mask.to(device)
        return TokenBatch(self.input_ids.to(device), mask)


Batches = Callable[[int], Tensor | TokenBatch]


def holds_target(attention_mask: Tensor) -> Tensor:
    """(B,) boolean, True for rows of a (B, T) mask that hold a token to predict: two neighbouring tokens of text."""
    return (attention_mask[:, 1:] * attention_mask[:, :-1]).sum(1) > 0


def token_batch(batch: Any) -> TokenBatch:
    """What a data loader yields, as a `TokenBatch`.

    Args:
        batch: (B, T) token ids; a mapping with ``input_ids`` and maybe ``attention_mask``; or a pair of these two.

    Returns:
        The batch, without sequences that hold no token to predict (unless there are no others).

    Raises:
        InputError: Something else, an empty batch, or sequences shorter than two tokens.
    """
    if isinstance(batch, Tensor):
        found = TokenBatch(batch)
    elif hasattr(batch, "keys") and "input_ids" in batch:
        found = TokenBatch(batch["input_ids"], batch["attention_mask"] if "attention_mask" in batch else None)  # noqa: SIM401
    elif isinstance(batch, tuple | list) and 1 <= len(batch) <= 2 and isinstance(batch[0], Tensor):
        found = TokenBatch(*batch)
    else:
        raise InputError(f"a batch must be (B, T) token ids or a dict with input_ids, got {type(batch).__name__}")
    if found.input_ids.ndim != 2 or found.input_ids.shape[0] < 1 or found.input_ids.shape[1] < 2:
        raise InputError(f"input_ids must be (sequences >= 1, tokens >= 2), got {tuple(found.input_ids.shape)}")
    ids, mask = found
    if mask is None or bool((mask != 0).all()):
        return TokenBatch(ids)
    if mask.shape != ids.shape:
        raise InputError(f"attention_mask must have the shape of input_ids {tuple(ids.shape)}, got {tuple(mask.shape)}")
    text = holds_target(mask)
    return TokenBatch(ids[text], mask[text]) if bool(text.any()) else found


class BlockBatches:
    """Batches of packed blocks: every epoch reads each block once, in an order of its own.

    Args:
        blocks: (n, T) token ids.
        batch_size: Sequences in a batch, at most ``n``; an epoch's remainder is dropped.
        seed: Fixes all orders.

    Attributes:
        per_epoch: Batches in an epoch.

    Raises:
        InputError: No blocks, or a batch size below 1.
    """

    def __init__(self, blocks: Tensor, batch_size: int = 8, seed: int = 0) -> None:
        if blocks.ndim != 2 or not len(blocks):
            raise InputError(f"blocks must be (n >= 1, T) token ids, got {tuple(blocks.shape)}")
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}")
        self.blocks, self.batch_size, self.seed = blocks, min(batch_size, len(blocks)), seed
        self.per_epoch = len(blocks) // self.batch_size
        self._epoch, self._order = -1, torch.empty(0)

    def __call__(self, step: int) -> Tensor:
        """(B, T) token ids of micro-batch ``step``."""
        epoch, batch = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            random = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._epoch, self._order = epoch, torch.randperm(len(self.blocks), generator=random)
        return self.blocks[self._order[batch * self.batch_size : (batch + 1) * self.batch_size]]


class LoaderBatches:
    """Batches of a data loader, read once as they are wanted and kept: later epochs repeat the first one's order.

    Args:
        loader: Yields what `token_batch` takes.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        self._rest: Iterator[Any] | None = iter(loader)
        self._read: list[TokenBatch] = []

    def __call__(self, step: int) -> TokenBatch:
        """Micro-batch ``step``.

        Raises:
            InputError: The loader yields nothing.
        """
        while self._rest is not None and len(self._read) <= step:
            batch = next(self._rest, None)
            if batch is None:
                self._rest = None
            else:
                self._read.append(token_batch(batch).to(torch.device("cpu")))
        if not self._read:
            raise InputError("the data loader yields no batch: its text is empty, or shorter than one block")
        return self._read[step % len(self._read)]

    def all(self) -> list[TokenBatch]:
        """Every batch of one epoch."""
        while self._rest is not None:
            self(len(self._read))
        return list(self._read)


def as_batches(data: Any, batch_size: int = 8, seed: int = 0) -> Batches:
    """Training text in any form as a function of the step.

    Args:
        data: (n, T) blocks, which are shuffled; a data loader; or such a function, which is returned as it is.
        batch_size, seed: For blocks: sequences in a batch, and what fixes their order.

    Raises:
        InputError: The data has another form.
    """
    if isinstance(data, Tensor):
        return BlockBatches(data, batch_size, seed)
    if isinstance(data, BlockBatches | LoaderBatches) or (callable(data) and not hasattr(data, "__iter__")):
        return data  # type: ignore[no-any-return]
    if hasattr(data, "__iter__"):
        return LoaderBatches(data)
    raise InputError(f"training text must be (n, T) token ids, a data loader or a function, got {type(data).__name__}")
