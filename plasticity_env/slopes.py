"""What the loss would do if units moved along their residuals: read off in the backward pass, without leaves of their own.

A tap lies where an output projection reads. It passes its rows on; on the way back it sees the loss's gradient in them, g,
and with the rows x and a unit's residual r_u = x P_u it has the slope of every token, g_u . r_u. Three estimates of the
second-order cost of removing the unit follow, from the noisiest and least biased to the opposite:

- **Fisher**: the square of a whole sequence's slope, so that each sequence is one sample (Kwon et al. 2022);
- **token Fisher**: the sum of the squares of its tokens' slopes, as if tokens were independent: as many samples as tokens;
- **K-FAC**: tr(E[r_u r_u^T] E[g_u g_u^T]), as if residuals and gradients were independent as well (Martens & Grosse 2015).

The scale of all three is that of the first: nats squared, a mean over sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

KINDS = ("residual", "crossfit")
SCORES = ("gradient", "fisher", "token_fisher", "kfac")


class SlopeSums:
    """Sums over what the taps of a measuring pass see, for n groups of sequences.

    Args:
        shape: (L, U) of the model.
        groups: n; a pass holds equally many sequences of each, group after group.
        device: Where to sum.
    """

    def __init__(self, shape: tuple[int, int], groups: int, device: torch.device) -> None:
        self._shape, self._groups, self._device = shape, groups, device
        self._projectors: Mapping[str, Mapping[int, Tensor]] = {}
        self._slopes: dict[str, list[Tensor]] = {}  # of every pass, (n, b, L, U)
        self._squares: dict[str, Tensor] = {}  # (n, L, U)
        self._spreads: dict[tuple[str, int], Tensor] = {}  # of what, and site: (n, u, W, W) sums of outer products
        self._padding: Tensor | None = None
        self.leaf = torch.zeros((), device=device, requires_grad=True)  # asks for the taps' gradients

    def begin(self, projectors: Mapping[str, Mapping[int, Tensor]], sequences: int, padding: Tensor | None) -> None:
        """Announce a chunk.

        Args:
            projectors: Of each kind that is wanted, by site: (I, I), or (n, I, I) of each group.
            sequences: Of all groups.
            padding: (b, T), 1 for text; None when nothing is padded.
        """
        self._projectors, self._padding = projectors, padding
        for kind in projectors:
            shape = (self._groups, sequences // self._groups, *self._shape)
            self._slopes.setdefault(kind, []).append(torch.zeros(shape, device=self._device))
            self._squares.setdefault(kind, torch.zeros(self._groups, *self._shape, device=self._device))

    def tap(self, site: int, rows: Tensor, columns: slice) -> Tensor:
        """Pass on the (b, T, I), or (b * T, I), input of a site's projection, whose units are these columns of a layer."""
        wanted = {kind: of_kind[site] for kind, of_kind in self._projectors.items() if site in of_kind}
        if not wanted:
            return rows
        kept = rows.detach()
        found: Tensor = _Tap.apply(rows, self.leaf, lambda slope: self._note(site, kept, slope, columns, wanted))
        return found

    def _note(
        self, site: int, rows: Tensor, gradient: Tensor, columns: slice, projectors: Mapping[str, Tensor]
    ) -> None:
        units = len(range(*columns.indices(self._shape[1])))
        cut = rows.float().reshape(self._groups, -1, rows.shape[-1])  # (n, b * T, I)
        back = gradient.float().reshape(*cut.shape[:2], units, -1)  # (n, b * T, u, W)
        self._spread("gradient", site, back)
        for kind, projector in projectors.items():
            residual = (cut @ projector).view(back.shape)  # columns of pruned units are 0
            if self._padding is not None:
                residual = residual * self._padding.reshape(1, -1, 1, 1)
            self._spread(kind, site, residual)
            passed = self._slopes[kind][-1]
            slopes = (residual * back).sum(3).view(self._groups, passed.shape[1], -1, units)  # (n, b, T, u)
            passed[:, :, site // 2, columns] = slopes.sum(2)
            self._squares[kind][:, site // 2, columns] += slopes.square().sum((1, 2))

    def _spread(self, of: str, site: int, rows: Tensor) -> None:
        across = rows.transpose(1, 2)  # (n, u, b * T, W)
        outer = across.transpose(2, 3) @ across
        self._spreads[of, site] = self._spreads[of, site] + outer if (of, site) in self._spreads else outer

    def scores(self, tokens: int, heads: int) -> dict[str, Tensor]:
        """(n, L, U) float32 on the CPU, by ``{kind}_{score}``, of the kinds that were tapped.

        Args:
            tokens: Of each group, that counted.
            heads: Units of a layer that are heads.
        """
        found: dict[str, Tensor] = {}
        for kind, chunks in self._slopes.items():
            slopes = torch.cat(chunks, 1)  # (n, B, L, U)
            sequences = slopes.shape[1]
            kfac = torch.zeros_like(self._squares[kind])
            for (of, site), spread in self._spreads.items():
                if of == kind:
                    columns = slice(heads, None) if site % 2 else slice(0, heads)
                    kfac[:, site // 2, columns] = (spread * self._spreads["gradient", site]).sum((2, 3))
            estimates = (
                slopes.abs().mean(1),
                slopes.square().mean(1),
                self._squares[kind] / sequences,
                kfac / (sequences * tokens),
            )
            found |= {
                f"{kind}_{score}": value.cpu().clamp(min=0) for score, value in zip(SCORES, estimates, strict=True)
            }
        return found


class _Tap(torch.autograd.Function):
    """Identity whose backward hands the gradient to a function."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, leaf: Tensor, note: Callable[[Tensor], None]) -> Tensor:
        ctx.note = note
        return rows.view_as(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        ctx.note(gradients[0])
        return gradients[0], None, None
