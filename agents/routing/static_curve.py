"""What the best static structure costs at any mean FLOPs: the reference that routers are measured against."""

from __future__ import annotations

import numpy as np

from plasticity_env.common.errors import InputError
from plasticity_env.dynamic.route_table import RouteTable


class StaticCurve:
    """Mean rise of the loss where every text runs under one structure from its first token, over FLOPs kept.

    For the structures of each label (a kind of text, or the mixture) a curve goes from the dense model through their shares,
    linear between measured structures; the best static structure at some FLOPs is the lowest curve there, chosen on the same
    texts (in hindsight). Where a table has whole texts of some structures only, one curve goes through the lowest of each
    share.

    Args:
        table: What was measured.
        texts: (n,) numbers of texts.
        weights: (R, n) weights of the texts, each row summing to 1: the texts themselves and bootstrap replicates.

    Raises:
        InputError: A table in which no whole text ran under a pruned structure.
    """

    def __init__(self, table: RouteTable, texts: np.ndarray, weights: np.ndarray) -> None:
        loss = np.asarray(table.static_loss)[texts].astype(np.float64)
        means = weights @ (loss - loss[:, :1])  # (R, K)
        kept = table.static_flops_kept(np.arange(len(table.structures)))
        measured = [number for number in range(1, len(kept)) if not np.isnan(means[0, number])]
        groups: dict[str, list[int]] = {}
        for number in measured:
            groups.setdefault(table.labels[number], []).append(number)
        if len(measured) < len(kept) - 1:
            lowest: dict[float, int] = {}
            for number in sorted(measured, key=lambda each: float(means[0, each])):
                lowest.setdefault(table.shares[number], number)
            groups = {"lowest": list(lowest.values())} if lowest else {}
        self.curves: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for label, own in groups.items():
            order = sorted([0, *own], key=lambda number: kept[number])
            self.curves[label] = kept[order], means[:, order]
        if not self.curves:
            raise InputError(
                "the route table has no whole text under a pruned structure, which routers are compared with: measure it with "
                "measure_routes"
            )

    def at(self, kept: np.ndarray) -> np.ndarray:
        """(R,) lowest mean rise at (R,) FLOPs kept; NaN above the dense model's or below the least that was measured."""
        found = np.full((len(self.curves), len(kept)), np.nan)
        for row, (knots, means) in enumerate(self.curves.values()):
            inside = (kept >= knots[0]) & (kept < knots[-1])
            place = np.clip(np.searchsorted(knots, kept, side="right") - 1, 0, len(knots) - 2)
            width = np.maximum(knots[place + 1] - knots[place], 1e-12)
            part = (kept - knots[place]) / width
            rows = np.arange(len(kept))
            value = (1 - part) * means[rows, place] + part * means[rows, place + 1]
            found[row] = np.where(inside, value, np.nan)
        lowest = np.where(np.isnan(found), np.inf, found).min(0)
        return np.where(np.isinf(lowest), np.nan, lowest)
