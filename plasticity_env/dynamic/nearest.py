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
        self._structures = torch.tensor([bank.find(label, share) for label in self.labels])
        means = torch.stack([bank.prefixes[label].mean(0) for label in self.labels])  # (k, F)
        within = torch.cat([bank.prefixes[label] - mean for label, mean in zip(self.labels, means, strict=True)])
        self._spread = within.square().mean(0).sqrt().clamp(min=1e-6)
        self._means = means / self._spread

    def distances(self, view: PrefixView) -> Tensor:
        """(B, k) distance to the mean prefix of each kind of text, in ``labels``' order."""
        return torch.cdist(view.features / self._spread, self._means)

    def pick(self, view: PrefixView) -> Tensor:
        """(B,) numbers of structures."""
        return self._structures[self.distances(view).argmin(1)]
