"""The plain router: the structure whose texts begin most alike."""

from __future__ import annotations

import torch
from torch import Tensor

from plasticity_env.common.errors import InputError
from plasticity_env.dynamic.bank import StructureBank
from plasticity_env.dynamic.prefix import PrefixView


class NearestTexts:
    """Picks the kind of text whose prefixes lie nearest on the mean, each feature divided by its spread within the kinds.

    Args:
        bank: Its structures and the prefixes of the texts that they were fitted on.
        share: Of which share structures are picked; None: the one that all have.

    Raises:
        InputError: The bank has structures of several shares and none was named, or kinds without prefixes.
    """

    def __init__(self, bank: StructureBank, share: float | None = None) -> None:
        if share is None:
            if len(bank.shares) != 1:
                shares = ", ".join(f"{share:g}" for share in bank.shares) or "none"
                raise InputError(f"the bank has structures of the shares {shares}: say which, as bank.only(0.3)")
            share = bank.shares[0]
        self.labels = [label for label in bank.labels if label in bank.prefixes]
        if not self.labels:
            raise InputError("the bank holds no prefixes to compare with: make it with build_bank, or pass a router")
        self._bank = bank
        self._structures = torch.tensor([bank.find(label, share) for label in self.labels])

    def pick(self, view: PrefixView) -> Tensor:
        """(B,) numbers of structures."""
        return self._structures[distances_to(self._bank, view.features).argmin(1)]


def distances_to(bank: StructureBank, features: Tensor) -> Tensor:
    """(B, k) distance of prefixes to the mean prefix of each kind of text that structures of a bank were fitted on.

    Each feature counts over its spread within the kinds.

    Args:
        bank: With prefixes.
        features: (B, F) of `PrefixView.features`.
    """
    labels = [label for label in bank.labels if label in bank.prefixes]
    if not labels:
        return features.new_zeros(len(features), 0)
    means = torch.stack([bank.prefixes[label].mean(0) for label in labels])  # (k, F)
    within = torch.cat([bank.prefixes[label] - mean for label, mean in zip(labels, means, strict=True)])
    spread = within.square().mean(0).sqrt().clamp(min=1e-6)
    return torch.cdist(features / spread, means / spread)
