"""Which document of one text goes to which split: dealt by a hash, so that every split reads of everything and none shares any.

Neighbouring blocks are of one article or scene, so a split that is cut from the front of a text knows little of the rest. Here
each document goes to one split as a whole. Documents are dealt one by one, in the order of a hash of what they say, each to the
split that lacks most of its share; documents that say the same go to the same split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

SHARES = {"test": 0.375, "calibration": 0.25, "train": 0.25, "reward": 0.125}  # of a text's documents, by split
SECTIONS = 64  # equal runs of blocks that stand for documents where a text has too few of its own


@dataclass(frozen=True)
class Dealt:
    """Blocks of a split.

    Attributes:
        blocks: (n, T) token ids.
        documents: (n,) number of the document that each block begins in.
    """

    blocks: Tensor
    documents: Tensor


def deal(
    documents: Sequence[Tensor], block_size: int, shares: Mapping[str, float] = MappingProxyType(SHARES)
) -> dict[str, Dealt]:
    """Deal documents to splits.

    Args:
        documents: Token ids of each, (N_i,) int64.
        block_size: T. The documents of a split are joined in the text's order and cut into blocks of T tokens; the remainder is
            dropped.
        shares: Share of the documents that each split is to get, by name; they sum to 1.

    Returns:
        The splits by name. Where documents are so few or so uneven that a split would get less than a third of its share of the
        text, the text is cut into equal sections of whole blocks, which are dealt instead; a text of fewer blocks than splits
        leaves some of them empty.
    """
    dealt = _dealt(documents, block_size, shares)
    whole = torch.cat(list(documents))
    blocks = len(whole) // block_size
    if all(len(dealt[name].blocks) >= max(1, share * blocks / 3) for name, share in shares.items()):
        return dealt
    sections = min(SECTIONS, blocks)
    cuts = [number * blocks // sections * block_size for number in range(sections + 1)] if sections else []
    return _dealt([whole[start:stop] for start, stop in pairwise(cuts)], block_size, shares, together=False)


def _dealt(
    documents: Sequence[Tensor], block_size: int, shares: Mapping[str, float], together: bool = True
) -> dict[str, Dealt]:
    """Deal what there is; with ``together``, documents that say the same count as one and go to one split."""
    hands: dict[str, list[int]] = {split: [] for split in shares}
    alike: dict[tuple[bytes, int], list[int]] = {}
    for number, document in enumerate(documents):
        alike.setdefault((_hash(document), 0 if together else number), []).append(number)
    for _, numbers in sorted(alike.items()):
        hands[min(hands, key=lambda split: (len(hands[split]) + 1) / shares[split])] += numbers
    return {split: _packed(documents, sorted(hand), block_size) for split, hand in hands.items()}


def _hash(ids: Tensor) -> bytes:
    return hashlib.sha256(ids.numpy().tobytes()).digest()


def _packed(documents: Sequence[Tensor], hand: Sequence[int], block_size: int) -> Dealt:
    if not hand:
        return Dealt(torch.empty(0, block_size, dtype=torch.long), torch.empty(0, dtype=torch.long))
    ids = torch.cat([documents[number] for number in hand])
    lengths = torch.tensor([len(documents[number]) for number in hand])
    count = len(ids) // block_size
    begins = torch.arange(count) * block_size
    of = torch.bucketize(begins, lengths.cumsum(0), right=True)
    return Dealt(ids[: count * block_size].view(-1, block_size).clone(), torch.tensor(hand)[of])


def spread_draw(documents: Tensor, count: int, random: np.random.Generator) -> list[int]:
    """Draw blocks without replacement, over as many documents as there are: one of each before any gives a second one.

    Args:
        documents: (n,) number of each block's document.
        count: How many blocks to draw, at most n.
        random: Source of the draw.

    Returns:
        Numbers of the blocks, in ascending order.
    """
    order, of = random.permutation(len(documents)), documents.tolist()  # which of a document's blocks come first
    turns: dict[int, int] = {}
    turn = np.empty(len(order))
    for place in order:
        document = of[place]
        turn[place] = turns.get(document, 0)
        turns[document] = turns.get(document, 0) + 1
    shuffled = order[np.argsort(turn[order], kind="stable")]
    return sorted(int(place) for place in shuffled[:count])
