"""What a router does on a route table: a structure for each text, and the bill for what it tried before."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from plasticity_env.common.errors import InputError
from plasticity_env.dynamic.route_table import RouteTable


@dataclass(frozen=True)
class Played:
    """What was picked for n texts of a table.

    Attributes:
        structures: (n,) numbers of structures; the prefix ran dense.
        probes: (n,) FLOPs of what was tried on the prefix, in tokens of the dense model.
    """

    structures: np.ndarray
    probes: np.ndarray

    def rise(self, table: RouteTable, texts: np.ndarray) -> np.ndarray:
        """(n,) loss over the dense model's, nats per token, over the tokens after the prefix."""
        loss = np.asarray(table.loss)[texts].astype(np.float64)
        found: np.ndarray = loss[np.arange(len(texts)), self.structures] - loss[:, 0]
        return found

    def flops_kept(self, table: RouteTable) -> np.ndarray:
        """(n,) FLOPs over the dense model's: prefix, its reading, probes, the rest."""
        return table.flops_kept(self.structures, self.probes)


class RoutePlayer(ABC):
    """Picks a structure for texts of a table.

    Attributes:
        name: What it is called in tables.
        level: Share or price at which it plays, for tables; empty where it has none.
    """

    name = "router"
    level = ""

    @abstractmethod
    def play(self, table: RouteTable, texts: np.ndarray) -> Played:
        """Pick a structure for each text.

        Args:
            table: What was measured.
            texts: (n,) numbers of texts.
        """


def structures_of(shares: Sequence[float], share: float) -> np.ndarray:
    """Numbers of the structures that prune a share, those of mixtures included.

    Args:
        shares: What each structure prunes; the first is dense.
        share: What they should prune.

    Raises:
        InputError: There is none.
    """
    found = np.flatnonzero(np.isclose(shares, share) & (np.arange(len(shares)) > 0))
    if not len(found):
        there = ", ".join(f"{each:g}" for each in sorted(set(shares[1:])))
        raise InputError(f"no structure prunes {share:g}: there are structures of {there}")
    return found


def no_probes(structures: np.ndarray) -> Played:
    """Structures that were picked without trying any."""
    return Played(structures, np.zeros(len(structures)))
