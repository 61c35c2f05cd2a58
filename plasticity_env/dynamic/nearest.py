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
        under: The structure under which prefixes run, by which those of the bank's texts were read as well.

    Raises:
        InputError: The bank has structures of several shares and none was named, or kinds without prefixes.
    """

    def __init__(self, bank: StructureBank, share: float | None = None, under: int | str = 0) -> None:
        if share is None:
            if len(bank.shares) != 1:
                shares = ", ".join(f"{share:g}" for share in bank.shares) or "none"
                raise InputError(f"the bank has structures of the shares {shares}: say which, as bank.only(0.3)")
            share = bank.shares[0]
        self._distances = TextDistances(bank, under)
        self.labels = self._distances.labels
        if not self.labels:
            raise InputError(
                f"the bank holds no prefixes that ran under {bank[under].name!r} to compare with: make it with build_bank, or "
                "pass a router"
            )
        self._structures = torch.tensor([bank.find(label, share) for label in self.labels])

    def pick(self, view: PrefixView) -> Tensor:
        """(B,) numbers of structures."""
        return self._structures[self._distances.to(view).argmin(1)]


class TextDistances:
    """How far prefixes lie from the mean prefix of each kind of text that structures of a bank were fitted on.

    Mahalanobis distances over the square root of the dimension, as linear discriminant analysis takes them: with the covariance
    within the kinds, shrunk as Ledoit and Wolf (2004) say.

    Args:
        bank: With prefixes; one without any has distances to nothing.
        under: The structure under which they ran.
    """

    def __init__(self, bank: StructureBank, under: int | str = 0) -> None:
        prefixes = bank.prefixes_under(under)
        self.labels = [label for label in bank.labels if label in prefixes]
        if not self.labels:
            return
        rows = [prefixes[label].double() for label in self.labels]
        means = torch.stack([of.mean(0) for of in rows])  # (k, F)
        within = torch.cat([of - mean for of, mean in zip(rows, means, strict=True)])
        self._spread = within.square().mean(0).sqrt().clamp(min=1e-6)
        self._root = torch.linalg.cholesky(shrunk_covariance(within / self._spread))
        self._means = self._whitened(means)

    def to(self, view: PrefixView) -> Tensor:
        """(B, k) float32 on the CPU."""
        if not self.labels:
            return torch.zeros(len(view), 0)
        return torch.cdist(self._whitened(view.pooled.double().cpu()), self._means).float()

    def _whitened(self, rows: Tensor) -> Tensor:
        scaled = (rows / self._spread).mT / rows.shape[1] ** 0.5
        found: Tensor = torch.linalg.solve_triangular(self._root, scaled, upper=False).mT
        return found


def shrunk_covariance(rows: Tensor) -> Tensor:
    """(F, F) covariance of centred (n, F) rows, shrunk to a multiple of the identity as Ledoit and Wolf (2004) say."""
    count, width = rows.shape
    plain = rows.mT @ rows / count
    scale = plain.diagonal().mean()
    identity = torch.eye(width, dtype=rows.dtype)
    off = (plain - scale * identity).square().sum()
    noise = (rows.square().sum(1).square().mean() - plain.square().sum()) / count
    share = float((noise / off.clamp(min=1e-12)).clamp(1e-3, 1)) if count > 1 else 1.0
    found: Tensor = (1 - share) * plain + share * scale.clamp(min=1e-6) * identity
    return found
