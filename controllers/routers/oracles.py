"""Routers that know what no router can: a text's kind, or its losses. Bounds for studies."""

from __future__ import annotations

import numpy as np

from plasticity_env.common.errors import InputError
from plasticity_env.controllers.routers.route_player import Played, RoutePlayer, no_probes, structures_of
from plasticity_env.dynamic.route_table import RouteTable


class LabelOracle(RoutePlayer):
    """The structure that was fitted on the text's own kind.

    Args:
        share: What the structures prune.
    """

    name = "label oracle"

    def __init__(self, share: float) -> None:
        self.share, self.level = share, f"{share:g}"

    def play(self, table: RouteTable, texts: np.ndarray) -> Played:
        of_label = {table.labels[number]: number for number in structures_of(table.shares, self.share).tolist()}
        kinds = np.asarray(table.kind)[texts]
        missing = [table.kinds[kind] for kind in np.unique(kinds).tolist() if table.kinds[kind] not in of_label]
        if missing:
            raise InputError(
                f"no structure that prunes {self.share:g} was fitted on {missing[0]!r}: there is no label oracle"
            )
        own = np.array([of_label.get(name, 0) for name in table.kinds])
        return no_probes(own[kinds])


class TextOracle(RoutePlayer):
    """The structure of the lowest loss on each text itself, of one share; or of the best potential among all, at a price.

    Args:
        share: What the structures prune; None: any.
        price: Price of a nat of log FLOPs, with ``share=None``.

    Raises:
        InputError: Neither or both are given.
    """

    name = "text oracle"

    def __init__(self, share: float | None = None, price: float | None = None) -> None:
        if (share is None) == (price is None):
            raise InputError("the text oracle picks at a share or at a price: give one of the two")
        self.share, self.price = share, price
        self.level = f"{share:g}" if share is not None else f"price {price:g}"

    def play(self, table: RouteTable, texts: np.ndarray) -> Played:
        losses = np.asarray(table.loss)[texts].astype(np.float64)
        if self.share is not None:
            choices = structures_of(table.shares, self.share)
            return no_probes(choices[losses[:, choices].argmin(1)])
        assert self.price is not None
        costs = np.log(table.flops_kept(np.arange(len(table.structures))))
        return no_probes((losses + self.price * costs).argmin(1))
