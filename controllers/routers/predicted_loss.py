"""The structure of the lowest predicted loss among those of one share, whatever the price of FLOPs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from plasticity_env.common.errors import InputError
from plasticity_env.controllers.routers.learned_router import LearnedRouter
from plasticity_env.controllers.routers.route_player import Played, RoutePlayer, no_probes, structures_of
from plasticity_env.dynamic.bank import StructureBank
from plasticity_env.dynamic.nearest import TextDistances
from plasticity_env.dynamic.prefix import PrefixView
from plasticity_env.dynamic.route_table import RouteTable
from plasticity_env.envs.route_board import raw_columns, scaled


class PredictedLoss(RoutePlayer):
    """Regresses the loss of every structure from the prefix and takes the lowest, as PuDDing does (Wee et al. 2025).

    Args:
        router: A trained router of the table's structures; its network predicts the losses.
        share: What the structures prune.
        bank: The bank that it picks from, for `pick`.

    Raises:
        InputError: The bank has other structures than those that the router knows.
    """

    name = "lowest predicted loss"
    prefix_structure = 0  # the network was fitted to dense prefixes

    def __init__(self, router: LearnedRouter, share: float, bank: StructureBank | None = None) -> None:
        self.router, self.share, self.level, self._bank = router, share, f"{share:g}", bank
        if bank is not None:
            router.check_structures(bank.names, "bank")
            self._distances = TextDistances(bank)

    @property
    def flops(self) -> float:
        """FLOPs of the network, once a text."""
        return 2.0 * sum(weight.numel() for weight in self.router.network.parameters() if weight.ndim == 2)

    def play(self, table: RouteTable, texts: np.ndarray) -> Played:
        features, distance = np.asarray(table.features)[texts], np.asarray(table.distance)[texts]
        return no_probes(self._lowest(features, distance, structures_of(table.shares, self.share)))

    def pick(self, view: PrefixView) -> Tensor:
        """(B,) numbers of structures for B texts, from what their first tokens tell.

        Raises:
            InputError: The router was given no bank.
        """
        if self._bank is None:
            raise InputError("picking inside a model needs the bank: PredictedLoss(router, share, bank)")
        choices = structures_of([structure.share for structure in self._bank], self.share)
        return torch.from_numpy(self._lowest(view.features.numpy(), self._distances.to(view).numpy(), choices))

    @torch.no_grad()
    def _lowest(self, features: np.ndarray, distance: np.ndarray, choices: np.ndarray) -> np.ndarray:
        prefix = scaled(raw_columns(features, distance), self.router.center, self.router.scale)
        rises = self.router.network.rise(torch.from_numpy(prefix)).numpy()
        found: np.ndarray = choices[rises[:, choices].argmin(1)]
        return found
