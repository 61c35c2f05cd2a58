"""Losses of every mask of a small model, each layer run once for all masks that agree on the layers before it.

What a repair in parallel changes of a layer depends on the units that this layer keeps, not on other layers. So a layer's
options (2^H of H heads) are a table of output projections, and masks are a tree: its root is the embedded text, a node at depth l
is what leaves layer l under some options of the layers up to it. The heads of a layer attend once a node, for all its options.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from plasticity_env.common.errors import InputError
from plasticity_env.model.contexts import frozen
from plasticity_env.model.layer_stream import LayerCalls, as_output, hidden_of, layer_calls, replaced
from plasticity_env.model.layouts import Site, transformer_layers
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.repair.methods import find_method
from plasticity_env.repair.registry import find_repair
from plasticity_env.signals.batched_model import Projection
from plasticity_env.signals.linalg import RIDGE
from plasticity_env.signals.measure import gather_many, sequence_losses
from plasticity_env.signals.moments import Moments

LARGEST = 20  # heads that may go: a million masks


class MaskTree:
    """All masks of a dense model over its heads.

    Args:
        model: Dense; its weights are not touched.
        repair: Name of a repair that treats every layer by itself.
        fitted: (B, T) token ids that repairs are fitted on.
        batch_size: Sequences in one pass over these.
        whole_layers: So many first layers keep all their heads in every mask.

    Attributes:
        options: (2^H, H) boolean, the units that each option of a layer keeps; the last keeps all.

    Raises:
        InputError: Too many units, MLP blocks among them, no layer that is free, or a repair that goes through the layers in
            order.
    """

    def __init__(
        self, model: PlasticModel, repair: str, fitted: Tensor, batch_size: int = 8, whole_layers: int = 0
    ) -> None:
        way = find_repair(repair)
        if way.sequential:
            raise InputError(f"repair {repair!r} fits a layer to those before it: use one that treats each by itself")
        layers = len(model.blocks)
        if not 0 <= whole_layers < layers:
            raise InputError(f"whole_layers must lie in [0, {layers - 1}], or no head could go; got {whole_layers}")
        free = (layers - whole_layers) * model.heads
        if model.mlp_blocks:
            raise InputError(
                "a complete table lists masks of heads alone, and this model has MLP blocks: load it with mlp_blocks=0"
            )
        if free > LARGEST:
            raise InputError(
                f"a complete table takes at most {LARGEST} heads that may go, here {free}: take a smaller model, or "
                f"keep the first layers whole (whole_layers={layers - LARGEST // model.heads})"
            )
        model.make_dense()
        self._model, self.heads, self._whole = model, model.heads, whole_layers
        self.options = torch.tensor(list(itertools.product((False, True), repeat=self.heads)))
        self._layers = transformer_layers(model.model)
        self._sites = model.blocks
        moments = {} if way.method is None else gather_many(model, fitted[None], batch_size)
        self._projections = [self._project(site, way.method, moments) for site in self._sites]

    def masks(self, first: int) -> Tensor:
        """(n, L, H) boolean: the masks whose first free layer has this option, in the order of `losses`."""
        rest = itertools.product(range(len(self.options)), repeat=len(self._layers) - self._whole - 1)
        whole = [len(self.options) - 1] * self._whole
        return torch.stack([self.options[[*whole, first, *choices]] for choices in rest])

    @torch.no_grad()
    def losses(self, first: int, ids: Tensor) -> Tensor:
        """Loss of each block under every mask whose first free layer has one option.

        Args:
            first: Number of that option, of `options`.
            ids: (B, T) token ids.

        Returns:
            (n, B) float64, nats per token; n masks, those of the last layer's options side by side.
        """
        columns = []
        with frozen(self._model), self._model.using(None):
            for block in ids.to(self._model.device).split(1):
                calls = layer_calls(self._model.model, block.repeat(len(self.options), 1))
                hidden, last = calls.hidden[:1], len(self.options) - 1
                for layer in range(self._whole):
                    hidden = self._run(layer, hidden, calls, slice(last, last + 1))
                hidden = self._run(self._whole, hidden, calls, slice(first, first + 1))
                columns.append(torch.cat(list(self._leaves(self._whole + 1, hidden, calls, block))))
        return torch.stack(columns, 1)

    def _leaves(self, layer: int, hidden: Tensor, calls: LayerCalls, block: Tensor) -> Iterator[Tensor]:
        """(k,) losses below a node at which (1, T, E) enters a layer."""
        if layer == len(self._layers):
            rows = block.expand(len(hidden), -1)
            with replaced(self._layers, lambda _: lambda *args, **kwargs: as_output(self._model.model, hidden)):
                yield sequence_losses(self._model, rows).double().cpu()
            return
        left = self._run(layer, hidden, calls, slice(None))
        if layer == len(self._layers) - 1:
            yield from self._leaves(layer + 1, left, calls, block)
        else:
            for row in left.split(1):
                yield from self._leaves(layer + 1, row, calls, block)

    def _run(self, layer: int, hidden: Tensor, calls: LayerCalls, chosen: slice) -> Tensor:
        """(k, T, E): what leaves a layer under k options where (1, T, E) enters it; its heads attend once."""
        site, weight, bias = self._sites[layer], *self._projections[layer]
        weight, bias = weight[chosen], None if bias is None else bias[chosen]
        count = len(weight)
        args, kwargs = (_first_rows(part, len(self.options), count) for part in calls.calls[layer])

        def project(rows: Tensor) -> Tensor:  # (1, T, I) -> (k, T, E)
            out = rows.reshape(-1, rows.shape[-1]) @ weight
            return out if bias is None else out + bias[:, None]

        with _attending_once(site, count, project):
            return hidden_of(self._layers[layer](hidden.expand(count, -1, -1), *args, **kwargs))

    def _project(self, site: Site, method: Any, moments: dict[int, Moments]) -> tuple[Tensor, Tensor | None]:
        """(k, I, E) and (k, E) or None: a layer's output projection under each option, rows of pruned units zero."""
        count, dense = len(self.options), site.output_weight()
        kept = self.options.repeat_interleave(site.unit_width, 1)  # (k, I)
        change = Projection()
        if method is not None:
            of = moments[site.index]
            many = Moments(of.gram.expand(count, -1, -1), of.mean.expand(count, -1))
            change = find_method(method)(dense, many, kept, site.unit_width, RIDGE)
        weight = dense.expand(count, -1, -1) if change.weight is None else change.weight
        own = getattr(site.output, "bias", None)
        bias = None if own is None else own.detach().expand(count, -1)
        if change.bias is not None:
            bias = change.bias if bias is None else bias + change.bias
        return (weight * kept.to(weight.device)[:, :, None]).contiguous(), bias


@contextmanager
def _attending_once(site: Any, count: int, project: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let an attention module look at the first of ``count`` equal sequences, and its projection write for all of them."""
    attend = site.module.forward

    def once(*args: Any, **kwargs: Any) -> Any:
        kwargs = {name: _first_rows(value, count, 1) for name, value in kwargs.items()}
        return attend(*_first_rows(args, count, 1), **kwargs)

    with replaced([site.module], lambda _: once), replaced([site.output], lambda _: project):
        yield


def _first_rows(value: Any, rows: int, kept: int) -> Any:
    """The same with the first rows of tensors that have one for each sequence."""
    if isinstance(value, Tensor):
        return value[:kept] if value.ndim and len(value) == rows else value
    if isinstance(value, dict):
        return {name: _first_rows(part, rows, kept) for name, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_first_rows(part, rows, kept) for part in value)
    return value
