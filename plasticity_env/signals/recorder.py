"""What a measuring pass notes on its way: attention entropy, second moments of units, slopes along residuals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from plasticity_env.model.layouts import Site
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.signals.attention_entropy import Kernel, attend, attend_with_entropy, choose_kernel, visible_lengths
from plasticity_env.signals.moment_sums import SiteSums
from plasticity_env.signals.moments import Moments, Statistics
from plasticity_env.signals.slopes import Projectors, SlopeSums


class PassOver(Exception):  # noqa: N818  control flow, not an error
    """Nothing that comes later in this pass is of interest."""


class SignalRecorder:
    """Attention with its log-sum-exp, and running sums of what the signals need, for n groups of sequences.

    Args:
        model: Model whose pass is recorded.
        gram: Keep whole second-moment matrices.
        groups: n; a pass holds equally many sequences of each, group after group.
        moments_only: Note nothing but second moments, and raise `PassOver` once the last of a pass is noted.
        held_out: The same as for `SlopeSums`.
        one_text: All sequences have the same projectors, so that slopes can read the second moments of the whole.
    """

    kernel: Kernel

    def __init__(
        self,
        model: PlasticModel,
        gram: bool,
        groups: int = 1,
        moments_only: bool = False,
        held_out: bool = False,
        one_text: bool = False,
    ) -> None:
        layers, units = model.shape
        device = model.device
        self._model, self._heads, self._groups = model, model.heads, groups
        self._entropy = torch.zeros(2, groups, layers, units, dtype=torch.float64, device=device)  # nats, normalised
        self._queries = torch.zeros(layers, dtype=torch.float64, device=device)
        self._sums = [SiteSums(model.blocks, model.heads, gram, device, groups)]
        if model.mlp_blocks:
            self._sums.append(SiteSums(model.mlps, model.mlp_blocks, gram, device, groups))
        self._last = next(site for site in reversed(model.sites) if site.gated) if moments_only else None
        self.tokens = 0  # of each group
        inputs = self._inputs_of if gram and one_text else None
        self.slopes = SlopeSums(model.sites, model.shape, groups, device, held_out, inputs)

    def begin(
        self,
        padding: Tensor | None,
        sequences: int,
        tokens: int,
        projectors: Mapping[str, Projectors] = MappingProxyType({}),
    ) -> None:
        """Announce a chunk.

        Args:
            padding: (b, T), 1 for text; None when nothing is padded. Only with one group.
            sequences, tokens: b and T.
            projectors: The same as for `SlopeSums.begin`.
        """
        self._padding = padding
        self.slopes.begin(projectors, sequences, padding)
        self._lengths: dict[int, tuple[Tensor | None, Tensor, Tensor]] = {}
        self.tokens += sequences * tokens // self._groups if padding is None else int(padding.sum())

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scale: float,
        softcap: float | None = None,
    ) -> Tensor:
        groups = query.shape[1] // key.shape[1]
        if groups > 1:
            key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        self.kernel = choose_kernel(query, mask, softcap)
        if self._last is not None:
            if softcap is None:
                out = F.scaled_dot_product_attention(query, key, value, mask, is_causal=mask is None, scale=scale)
            else:
                out, _ = attend(query, key, value, mask, scale, self.kernel, softcap)
            self._note_output(layer, out)
            return out.transpose(1, 2)
        out, entropy = attend_with_entropy(
            query, key, value, mask, scale, self.kernel, softcap
        )  # (b, H, T, D), (b, H, T)
        with torch.no_grad():
            self._note_entropy(layer, entropy, mask)
            self._note_output(layer, out.detach())
        out = out.transpose(1, 2)  # (b, T, H, D)
        return self.slopes.tap(self._model.blocks[layer], out.flatten(2)).view(out.shape)

    def _note_entropy(self, layer: int, entropy: Tensor, mask: Tensor | None) -> None:
        key = 0 if mask is None else id(mask)
        if (
            key not in self._lengths
        ):  # layers share masks: count visible keys once, and keep the mask, whose id would pass on
            visible = visible_lengths(mask, entropy.shape[-1], entropy.device)
            counted = (visible > 1).expand(len(entropy), 1, -1) if visible.shape[1] == 1 else visible > 1
            if self._padding is not None:
                counted = counted & self._padding[:, None].bool()
            self._lengths[key] = mask, counted.float(), visible.clamp(min=2).log().float()
        _, counted, logs = self._lengths[key]
        entropy = entropy.float().clamp(min=0) * counted
        for kind, values in enumerate((entropy, entropy / logs)):
            cut = values.unflatten(0, (self._groups, -1))  # (n, b, H, T)
            self._entropy[kind, :, layer, : self._heads] += cut.sum((1, 3), dtype=torch.float32)
        self._queries[layer] += counted.sum() / (counted.shape[1] * self._groups)

    def _note_output(self, layer: int, out: Tensor) -> None:
        rows = out.transpose(1, 2).flatten(2)  # (b, T, H*D)
        self._sums[0].add(layer, self._text_rows(rows))
        if self._last is self._model.blocks[layer]:
            raise PassOver

    def note_mlp(self, layer: int, neurons: Tensor) -> Tensor:
        with torch.no_grad():
            self._sums[1].add(layer, self._text_rows(neurons.detach()))
        if self._last is self._model.mlps[layer]:
            raise PassOver
        return self.slopes.tap(self._model.mlps[layer], neurons)

    def _inputs_of(self, site: Site) -> Tensor:
        return self._sums[site.kind == "mlp"].outer(site.layer)

    def _text_rows(self, rows: Tensor) -> Tensor:
        rows = rows.flatten(0, -2)  # (b*T, I)
        return rows if self._padding is None else rows[self._padding.flatten().bool()]

    def units(
        self,
        score: Callable[[SiteSums, Tensor, list[Tensor]], Tensor],
        gates: Tensor,
        weights: Mapping[int, Tensor],
    ) -> Tensor:
        """(n, L, U) of a score of one kind of site, over heads and MLP blocks side by side.

        Args:
            score: (n, L, u) from a kind's sums, its part of the gates and its L projections.
            gates: (n, L, U).
            weights: The projection of every site, (n or 1, I, E).
        """
        cuts = (gates[..., : self._heads], gates[..., self._heads :])
        found = []
        for sums, cut in zip(self._sums, cuts, strict=False):
            found.append(score(sums, cut, [weights[site.index] for site in sums.sites]))
        return torch.cat(found, 2)

    def moments(self) -> dict[int, Moments]:
        """Moments of every site: ``gram`` (n, I, I) and ``mean`` (n, I); only with ``gram``."""
        found: dict[int, Moments] = {}
        for sums in self._sums:
            found |= {site.index: of for site, of in zip(sums.sites, sums.moments(self.tokens), strict=True)}
        return dict(sorted(found.items()))

    def statistics(self) -> list[Statistics]:
        """Moments of each group by itself, on the CPU; only with ``gram``."""
        moments = {site: Moments(found.gram.cpu(), found.mean.cpu()) for site, found in self.moments().items()}
        return [
            Statistics({site: Moments(of.gram[group], of.mean[group]) for site, of in moments.items()}, self.tokens)
            for group in range(self._groups)
        ]

    def entropy(self) -> Tensor:
        """(n, L, U) nats."""
        return (self._entropy[0] / self._queries[:, None]).float().cpu()

    def entropy_normalized(self) -> Tensor:
        """(n, L, U) in [0, 1]."""
        return (self._entropy[1] / self._queries[:, None]).float().clamp(0, 1).cpu()
