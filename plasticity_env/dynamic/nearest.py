"""The plain router: the structure whose texts begin most alike."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from plasticity_env.common.errors import InputError
from plasticity_env.common.values import check_number
from plasticity_env.dynamic.bank import StructureBank
from plasticity_env.dynamic.fitting import MIXTURE
from plasticity_env.dynamic.prefix import PrefixView

FOLDS = 4  # in which a bank's own prefixes are seen from the others


class NearestTexts:
    """Picks the kind of text whose prefixes lie nearest on the mean, each feature divided by its spread within the kinds.

    Args:
        bank: Its structures and the prefixes of the texts that they were fitted on.
        share: Share of the structures that are picked; None takes the one that all have.
        under: The structure under which prefixes run, by which those of the bank's texts were read as well.
        false_alarms: Send texts to the mixture's structure that are no kind's: those that lie farther from all kinds than this
            share of the bank's own texts do, each seen from the others (four folds). None: there are no such texts.

    Attributes:
        prefix_structure: The number of ``under``.

    Raises:
        InputError: The bank has structures of several shares and none was named, or kinds without prefixes.
    """

    def __init__(
        self,
        bank: StructureBank,
        share: float | None = None,
        under: int | str = 0,
        *,
        false_alarms: float | None = None,
    ) -> None:
        if share is None:
            if len(bank.shares) != 1:
                shares = ", ".join(f"{share:g}" for share in bank.shares) or "none"
                raise InputError(f"the bank has structures of the shares {shares}: say which, as bank.only(0.3)")
            share = bank.shares[0]
        self.prefix_structure = bank.index(under)
        self._distances = TextDistances(bank, under)
        self.labels = self._distances.labels
        if not self.labels:
            raise InputError(
                f"the bank holds no prefixes that ran under {bank[under].name!r} to compare with: make it with build_bank, or "
                "pass a router"
            )
        self._structures = torch.tensor([bank.find(label, share) for label in self.labels])

        self.limit = math.inf
        if false_alarms is not None:
            check_number("false_alarms", false_alarms, 0, 1, above=True, below=True)
            self.limit = unknown_beyond(bank.prefixes_under(under), false_alarms)
            self._unknown = bank.find(MIXTURE, share)

    def pick(self, view: PrefixView) -> Tensor:
        """(B,) numbers of structures."""
        nearest = self._distances.to(view).min(1)
        picked = self._structures[nearest.indices]
        if not math.isfinite(self.limit):
            return picked
        return torch.where(nearest.values > self.limit, self._unknown, picked)


class TextDistances:
    """How far prefixes lie from the mean prefix of each kind of text that structures of a bank were fitted on.

    Mahalanobis distances over the square root of the dimension, as linear discriminant analysis takes them: with the covariance
    within the kinds, shrunk as Ledoit and Wolf (2004) say.

    Args:
        bank: A bank with prefixes; one without any has distances to nothing.
        under: The structure under which they ran.
    """

    def __init__(self, bank: StructureBank, under: int | str = 0) -> None:
        prefixes = bank.prefixes_under(under)
        self._fit({label: prefixes[label] for label in bank.labels if label in prefixes})

    @classmethod
    def of(cls, prefixes: Mapping[str, Tensor]) -> TextDistances:
        """Distances to kinds of text whose prefixes are given by label."""
        made = cls.__new__(cls)
        made._fit(prefixes)
        return made

    def _fit(self, prefixes: Mapping[str, Tensor]) -> None:
        self.labels = list(prefixes)
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
        return self.between(view.pooled)

    def between(self, pooled: Tensor) -> Tensor:
        """The same from (B, 2 E) pooled hidden states."""
        return torch.cdist(self._whitened(pooled.double().cpu()), self._means).float()

    def _whitened(self, rows: Tensor) -> Tensor:
        scaled = (rows / self._spread).mT / rows.shape[1] ** 0.5
        found: Tensor = torch.linalg.solve_triangular(self._root, scaled, upper=False).mT
        return found


def unknown_beyond(prefixes: Mapping[str, Tensor], false_alarms: float) -> float:
    """The distance beyond which a text is none of these kinds', but for a share of false alarms among texts that are.

    Args:
        prefixes: (n, 2 E) prefixes by label, n at least 8.
        false_alarms: The share, in (0, 1).

    Raises:
        InputError: Too few prefixes.
    """
    if min((len(rows) for rows in prefixes.values()), default=0) < 2 * FOLDS:
        raise InputError(f"telling unknown texts takes at least {2 * FOLDS} prefixes of each kind in the bank")
    found = []
    for fold in range(FOLDS):
        held = {label: rows[fold::FOLDS] for label, rows in prefixes.items()}
        kept = {
            label: torch.cat([rows[other::FOLDS] for other in range(FOLDS) if other != fold])
            for label, rows in prefixes.items()
        }
        found.append(TextDistances.of(kept).between(torch.cat(list(held.values()))).min(1).values)
    return float(torch.cat(found).double().quantile(1 - false_alarms))


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
