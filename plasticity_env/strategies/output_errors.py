"""What the output of a site loses when any set of its units goes and the others are refitted."""

from __future__ import annotations

import torch
from torch import Tensor

from plasticity_env.model.layouts import Site
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.signals.linalg import RIDGE
from plasticity_env.signals.text_sums import TextSums, gather_sums


class OutputErrors:
    """Squared errors of sites' outputs over their squared sizes, on text that the refit has not read.

    Args:
        model: Measured as the dense model that it is.
        price_ids: (n, T) token ids on which errors are counted.
        fit_ids: (m, T) token ids that the refit reads; None: each half of ``price_ids`` for the other.
        ridge: lambda of the refit, as a share of the mean diagonal of the second moments.
        batch_size: Sequences in one pass.
    """

    def __init__(
        self,
        model: PlasticModel,
        price_ids: Tensor,
        fit_ids: Tensor | None = None,
        ridge: float = RIDGE,
        batch_size: int = 4,
    ) -> None:
        self._model, self._ridge = model, ridge
        texts = price_ids.tensor_split(2) if fit_ids is None else (fit_ids, price_ids)
        first, second = (gather_sums(model, ids, gradients=False, batch_size=batch_size) for ids in texts)
        self._folds: tuple[tuple[TextSums, TextSums], ...] = ((first, second),)
        if fit_ids is None:
            self._folds = ((first, second), (second, first))

    def of(self, site: Site, gone: Tensor) -> Tensor:
        """(n,) float64 errors of n sets of units that go.

        Args:
            site: A site whose units are in the mask.
            gone: (n, U) boolean, equally many in every row.
        """
        return torch.stack([self._fold(*fold, site, gone) for fold in self._folds]).mean(0)

    def _fold(self, fit: TextSums, price: TextSums, site: Site, gone: Tensor) -> Tensor:
        moment, text = fit.second_moments([site])[0], price.second_moments([site])[0]
        weight = site.output_weight().to(text.dtype)
        whole = (text * (weight @ weight.T)).sum()
        away = gone.repeat_interleave(site.unit_width, 1).to(text.device)
        order = away.int().argsort(dim=1, stable=True)  # kept inputs first
        count = int((~away[0]).sum())
        kept, lost = order[:, :count], order[:, count:]

        def part(of: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
            return of[rows[:, :, None], columns[:, None]]

        error = part(text, lost, lost)
        if count:
            system = part(moment, kept, kept)
            system.diagonal(dim1=1, dim2=2).add_(self._ridge * moment.diagonal().mean())
            mix = torch.linalg.solve(system, part(moment, kept, lost))  # (n, S, P): what the kept ones say of the lost
            across = part(text, lost, kept) @ mix
            error = error - across - across.mT + mix.mT @ part(text, kept, kept) @ mix
        rows = weight[lost]  # (n, P, E)
        return (error * (rows @ rows.mT)).sum((1, 2)) / whole.clamp(min=1e-30)
