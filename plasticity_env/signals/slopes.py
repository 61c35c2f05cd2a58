"""What the loss would do if units moved along their residuals: read off in the backward pass, without leaves of their own.

A tap lies where an output projection reads. It passes its rows on; on the way back it sees the loss's gradient in them, g,
and with the rows x and a unit's residual r_u = x P_u it has the slope of every token, g_u . r_u. Three estimates of the
second-order cost of removing the unit follow, from the noisiest and least biased to the opposite:

- **Fisher**: the square of a whole sequence's slope, so that each sequence is one sample (Kwon et al. 2022);
- **token Fisher**: the sum of the squares of its tokens' slopes, as if tokens were independent: as many samples as tokens;
- **K-FAC**: tr(E[r_u r_u^T] E[g_u g_u^T]), as if residuals and gradients were independent as well (Martens & Grosse 2015).

K-FAC needs no more than second moments, so it can also say what a unit costs once the cheaper ones of its layer are
gone: **stepwise** K-FAC (`plasticity_env.signals.stepwise`). The scale of all four is that of the first: nats squared,
a mean over sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from plasticity_env.model.layouts import Site
from plasticity_env.signals.linalg import outer_sums
from plasticity_env.signals.stepwise import eliminate

KINDS = ("residual", "crossfit")
SCORES = ("gradient", "fisher", "token_fisher", "kfac", "stepwise")
ELIMINATED = 1 << 20  # entries of the matrices that are eliminated at once: these stay in the cache


@dataclass(frozen=True)
class Projector:
    """How the kept units of a site, or of n versions of it, predict one another.

    Attributes:
        matrix: (n or 1, I, I) float32 P: ``x @ P`` holds the residual of unit u, which is kept, in its columns.
        inverse: The same of float64: (G_SS + lambda I)^-1. In both, rows and columns of pruned units are 0.
    """

    matrix: Tensor
    inverse: Tensor


Projectors = Mapping[int, Projector]  # by site


class SlopeSums:
    """Sums over what the taps of a measuring pass see, for n groups of sequences.

    Args:
        sites: Sites of the model.
        shape: (L, U) of the model.
        groups: n; a pass holds equally many sequences of each, group after group.
        device: Device to sum on.
        held_out: The projectors were fitted on other text, so that what is in-sample elsewhere is cross-fitted as well.
        inputs: Sums of outer products of a site's inputs, (n, I, I), where somebody else gathers them over the whole pass
            anyway; None where they are to be gathered here.
    """

    def __init__(
        self,
        sites: Sequence[Site],
        shape: tuple[int, int],
        groups: int,
        device: torch.device,
        held_out: bool = False,
        inputs: Callable[[Site], Tensor] | None = None,
    ) -> None:
        self._held_out, self._inputs_of = held_out, inputs
        self._sites, self._shape, self._groups, self._device = sites, shape, groups, device
        self._parts: list[dict[str, Projectors]] = []  # of the sequences, by what they are projected with
        self._slopes: dict[str, list[Tensor]] = {}  # of every pass, (n, b, L, U)
        self._squares: dict[str, Tensor] = {}  # (n, L, U)
        self._inputs: dict[tuple[int, int], Tensor] = {}  # of part and site: (n, I, I) sums of outer products
        self._gradients: dict[int, Tensor] = {}  # the same of a site's gradients
        self._padding: Tensor | None = None
        self.leaf = torch.zeros((), device=device, requires_grad=True)  # asks for the taps' gradients

    def begin(self, projectors: Mapping[str, Projectors], sequences: int, padding: Tensor | None) -> None:
        """Announce a chunk.

        Args:
            projectors: Projectors of each kind that is wanted, by site.
            sequences: Number of sequences of all groups.
            padding: (b, T), 1 for text; None when nothing is padded.
        """
        self._padding = padding
        last = self._parts[-1] if self._parts else {}
        if not self._parts or any(found is not last.get(kind) for kind, found in projectors.items()):
            self._parts.append(dict(projectors))
        for kind in projectors:
            shape = (self._groups, sequences // self._groups, *self._shape)
            self._slopes.setdefault(kind, []).append(torch.zeros(shape, device=self._device))
            self._squares.setdefault(kind, torch.zeros(self._groups, *self._shape, device=self._device))

    def tap(self, site: Site, rows: Tensor) -> Tensor:
        """Pass on the (b, T, I), or (b * T, I), input of a site's projection."""
        if not any(site.index in found for found in self._parts[-1].values()):
            return rows
        kept = rows.detach()
        return hear_gradient(rows, self.leaf, lambda slope: self._note(site, kept, slope))

    def _note(self, site: Site, rows: Tensor, gradient: Tensor) -> None:
        cut, back = (
            each.float().reshape(self._groups, -1, rows.shape[-1]) for each in (rows, gradient)
        )  # (n, b * T, I)
        if self._padding is not None:
            cut = cut * self._padding.reshape(1, -1, 1)
        part = len(self._parts) - 1
        outer = outer_sums(back)
        self._gradients[site.index] = self._gradients[site.index] + outer if site.index in self._gradients else outer
        if self._inputs_of is None:
            key, outer = (part, site.index), outer_sums(cut)
            self._inputs[key] = self._inputs[key] + outer if key in self._inputs else outer
        for kind, projectors in self._parts[-1].items():
            residual = cut @ projectors[site.index].matrix  # columns of pruned units are 0
            passed = self._slopes[kind][-1]
            slopes = (
                (residual * back).unflatten(2, (-1, site.unit_width)).sum(3).unflatten(1, (passed.shape[1], -1))
            )  # (n, b, T, u)
            passed[:, :, site.layer, site.columns] = slopes.sum(2)
            self._squares[kind][:, site.layer, site.columns] += slopes.square().sum((1, 2))

    def scores(self, tokens: int) -> dict[str, Tensor]:
        """(n, L, U) float32 on the CPU, by ``{kind}_{score}``, of the kinds that were tapped.

        Args:
            tokens: Number of tokens of each group that counted.
        """
        found: dict[str, Tensor] = {}
        costs = self._kfac()
        for kind, chunks in self._slopes.items():
            slopes = torch.cat(chunks, 1)  # (n, B, L, U)
            sequences = slopes.shape[1]
            alone, in_turn = costs[kind]
            estimates = (
                slopes.abs().mean(1),
                slopes.square().mean(1),
                self._squares[kind] / sequences,
                alone / (sequences * tokens),
                in_turn / (sequences * tokens),
            )
            found |= {
                f"{kind}_{score}": value.cpu().clamp(min=0) for score, value in zip(SCORES, estimates, strict=True)
            }
        if self._held_out:
            found |= {f"crossfit_{score}": found[f"residual_{score}"] for score in SCORES}
        return found

    def _kfac(self) -> dict[str, Tensor]:
        """(2, n, L, U) of each kind: K-FAC of every unit alone and in its turn, summed over the parts."""
        costs = {kind: torch.zeros(2, self._groups, *self._shape, device=self._device) for kind in self._slopes}
        for lot in self._lots():
            gradients = [self._gradients[site.index] for _, site, _, _ in lot]
            inverses = [inverse.expand_as(gradients[0]) for _, _, inverse, _ in lot]
            moments = torch.cat([inputs for *_, inputs in lot])
            found = eliminate(torch.cat(inverses), moments, torch.cat(gradients), lot[0][1].unit_width)
            for index, (kind, site, _, _) in enumerate(lot):
                mine = slice(index * self._groups, (index + 1) * self._groups)
                costs[kind][:, :, site.layer, site.columns] += torch.stack([each[mine] for each in found])
        return costs

    def _lots(self) -> list[list[tuple[str, Site, Tensor, Tensor]]]:
        """Kind, site, inverse and inputs' moments of all that is to be eliminated.

        In lots of one sort of unit and one shape, none too large to be held at once.
        """
        lots: dict[tuple[str, int], list[list[tuple[str, Site, Tensor, Tensor]]]] = {}
        for kind in self._slopes:
            for projectors in {id(part[kind]): part[kind] for part in self._parts}.values():
                parts = [index for index, part in enumerate(self._parts) if part[kind] is projectors]
                for index in projectors.keys() & self._gradients.keys():
                    site = self._sites[index]
                    if self._inputs_of is None:
                        inputs = torch.stack([self._inputs[part, index] for part in parts]).sum(0)
                    else:
                        inputs = self._inputs_of(site)
                    mine = lots.setdefault((site.kind, inputs.shape[-1]), [[]])
                    if mine[-1] and (len(mine[-1]) + 1) * inputs.numel() > ELIMINATED:
                        mine.append([])
                    mine[-1].append((kind, site, projectors[index].inverse, inputs))
        return [lot for of_shape in lots.values() for lot in of_shape]


def hear_gradient(rows: Tensor, leaf: Tensor, note: Callable[[Tensor], None]) -> Tensor:
    """Pass on rows, and on the way back hand the loss's gradient in them to a function.

    Args:
        rows: Any tensor.
        leaf: A tensor whose gradient is asked for: without one that depends on it, nothing goes back.
        note: Called with the gradient.
    """
    found: Tensor = _Tap.apply(rows, leaf, note)
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
