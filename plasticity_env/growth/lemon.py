"""Growth without loss: a duplicate of an active head, and an unequal split of what the two write (LEMON)."""

from __future__ import annotations

import torch
from torch import Tensor

from plasticity_env.common.errors import InputError
from plasticity_env.growth.base import (
    InitialWeights,
    Source,
    group_columns,
    output_index,
    small_random,
    weights_of,
)
from plasticity_env.model.layouts import HeadSlice
from plasticity_env.model.plastic_model import PlasticModel


class LemonWeights(InitialWeights):
    """A duplicate of an active head of the layer; original and duplicates write unequal shares of what the original wrote.

    With k duplicates of one head the shares are (k + 1, k, ..., 1) / ((k + 1)(k + 2) / 2): one duplicate gives 2/3 and 1/3.
    They add up to 1, so the model computes what it computed, and no two are equal, so gradients differ and the copies part:
    LEMON (Wang et al. 2023, "LEMON: Lossless model expansion"), after Net2Net (Chen et al. 2016).

    The n-th pruned head of a layer duplicates its n-th most useful active head (highest Fisher), again from the first where
    there are fewer. A head of a living KV group duplicates a head of that group; a dead group takes the keys and values of the
    group that holds the layer's most useful head. In a layer without an active head, and for an MLP block, weights are random
    with output rows of zero.
    """

    name = "lemon"
    gradual = False

    @classmethod
    def check(cls, model: PlasticModel) -> None:
        """Refuse an architecture in which two heads of equal weights do not compute the same.

        Raises:
            InputError: Heads have scores, norms or position biases of their own.
        """
        block = model.blocks[0]
        own = "a norm over all heads" if block.layout.whole_norm else ""
        own = "position biases of its own (ALiBi)" if getattr(model.config, "alibi", False) else own
        if block.holders("head") or block.holders("group"):
            own = "norms or sinks of its own"
        if own:
            raise InputError(
                f"initial weights 'lemon' cannot hold in {type(model.model).__name__}: each head has {own}, so that a duplicate "
                "of its weights computes something else; take 'copy', 'transfer' or 'random'"
            )

    def source(self, model: PlasticModel, layer: int, unit: int) -> Source:
        if unit >= model.heads:
            return Source("random")
        own = group_columns(model, layer, unit)
        columns = own
        if model.group_is_dead(layer, unit):
            best = self.most_useful(model, layer, slice(0, model.heads))
            if best is None:
                return Source("random")
            shared = model.blocks[layer].group_size > 1
            columns = group_columns(model, layer, best) if shared else slice(0, model.heads)
            own = own if shared else columns
        ranked = self.by_usefulness(model, layer, columns)
        place = int((~model.active[layer, own.start : unit]).sum())
        return Source("active", layer, ranked[place % len(ranked)])

    def __call__(
        self, model: PlasticModel, layer: int, unit: int, pieces: list[HeadSlice], generator: torch.Generator | None
    ) -> list[Tensor]:
        """The original's own values; a unit without an original gets random ones and writes nothing at first."""
        source = self.sources[layer, unit] = self.source(model, layer, unit)
        if source.layer is not None:
            return weights_of(model, source, len(pieces))
        values = small_random(model, layer, unit, pieces, generator)
        output = output_index(model, layer, unit)
        values[output] = torch.zeros_like(values[output])
        return values

    def promise(self, model: PlasticModel) -> Tensor | None:
        """(L, U) the original's Fisher score over the place of the duplicate among its duplicates: useful heads come first."""
        assert self.usefulness is not None
        ranks, duplicates = torch.zeros(model.shape), dict.fromkeys(self.sources.values(), 0)
        for where, source in sorted(self.sources.items()):
            if source.layer is not None and source.unit is not None:
                duplicates[source] += 1
                ranks[where] = self.usefulness[source.layer, source.unit] / duplicates[source]
        return ranks

    def share_rows(self, model: PlasticModel, layer: int, rows: Tensor, mask: Tensor) -> None:
        copies: dict[int, list[int]] = {}
        for unit in mask[layer].nonzero().flatten().tolist():
            original = self.sources[layer, unit].unit
            if original is not None:
                copies.setdefault(original, []).append(unit)
        width = model.blocks[layer].unit_width
        for original, units in copies.items():
            whole = rows[original * width : (original + 1) * width].clone()  # (D, E)
            for head, share in zip([original, *units], shares(len(units)), strict=True):
                rows[head * width : (head + 1) * width] = share * whole


def shares(copies: int) -> list[float]:
    """Shares of an original and its duplicates: they fall from one to the next, and add up to 1.

    >>> [round(share, 3) for share in shares(1)]
    [0.667, 0.333]
    """
    total = (copies + 1) * (copies + 2) / 2
    return [(copies + 1 - place) / total for place in range(copies + 1)]
