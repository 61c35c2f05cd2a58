"""Routers that learn nothing: one structure for all, a random one, the nearest texts' one, the best on the prefix."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from plasticity_env.common.errors import InputError, check_least
from plasticity_env.controllers.routers.route_player import Played, RoutePlayer, no_probes, structures_of
from plasticity_env.dynamic.prefix import PrefixView
from plasticity_env.dynamic.route_table import RouteTable
from plasticity_env.envs.route_board import fitted_kinds


class FixedRouter(RoutePlayer):
    """The same structure for every text, after a dense prefix.

    Args:
        structure: Number of the structure.
    """

    name = "fixed"

    def __init__(self, structure: int) -> None:
        self.structure = check_least("structure", structure, 0)
        self.level = f"structure {self.structure}"

    def play(self, table: RouteTable, texts: np.ndarray) -> Played:
        if self.structure >= len(table.structures):
            raise InputError(
                f"structure {self.structure} does not exist: the table has 0 to {len(table.structures) - 1}"
            )
        return no_probes(np.full(len(texts), self.structure))

    def pick(self, view: PrefixView) -> Tensor:
        """Pick the same structure for each of the B texts."""
        return torch.full((len(view),), self.structure)


class RandomRouter(RoutePlayer):
    """A random structure of one share for each text.

    Args:
        share: What it prunes.
        seed: Seed of the draws; a text of a table gets the same structure in every play.
    """

    name = "random"

    def __init__(self, share: float, seed: int = 0) -> None:
        self.share, self.seed, self.level = share, seed, f"{share:g}"

    def play(self, table: RouteTable, texts: np.ndarray) -> Played:
        choices = structures_of(table.shares, self.share)
        return no_probes(np.random.default_rng(self.seed).choice(choices, len(table))[texts])


class NearestRouter(RoutePlayer):
    """The structure of the kind whose texts begin most alike: what `plasticity_env.dynamic.NearestTexts` picks.

    Args:
        share: What the structures prune.
    """

    name = "nearest"

    def __init__(self, share: float) -> None:
        self.share, self.level = share, f"{share:g}"

    def play(self, table: RouteTable, texts: np.ndarray) -> Played:
        own = structures_by_kind(table, self.share)
        return no_probes(own[np.asarray(table.distance)[texts].argmin(1)])


class ProbingRouter(RoutePlayer):
    """Runs the prefix under every structure of a share, and picks the one of the lowest loss there; all runs are billed.

    Args:
        share: What the structures prune.
    """

    name = "probing all"

    def __init__(self, share: float) -> None:
        self.share, self.level = share, f"{share:g}"

    def play(self, table: RouteTable, texts: np.ndarray) -> Played:
        tried = structures_of(table.shares, self.share)
        best = tried[np.asarray(table.probe)[texts][:, tried].argmin(1)]
        bill = table.prefix_tokens * float((np.asarray(table.flops)[tried] / table.flops[0]).sum())
        return Played(best, np.full(len(texts), bill))


def structures_by_kind(table: RouteTable, share: float) -> np.ndarray:
    """(k,) the structure of a share for each kind that `RouteTable.distance` has a column of.

    Raises:
        InputError: A table without distances, or a kind without a structure of this share.
    """
    wanted = set(structures_of(table.shares, share).tolist())
    if not table.distance.shape[1]:
        raise InputError(
            "the route table has no distances to kinds of text: fit its bank with build_bank, which keeps prefixes"
        )
    found = {kind: number for number, kind in enumerate(fitted_kinds(table)) if number in wanted}
    missing = [kind for kind in range(table.distance.shape[1]) if kind not in found]
    if missing:
        raise InputError(f"kind {missing[0]} of the table's distances has no structure that prunes {share:g}")
    return np.array([found[kind] for kind in range(table.distance.shape[1])])
