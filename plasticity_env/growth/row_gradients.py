"""What output rows of new heads would learn: the loss's gradient in them, for attention patterns that the model already has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from plasticity_env.model.compact.modules import KvRun
from plasticity_env.model.contexts import frozen
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.model.score_terms import attend
from plasticity_env.signals.measure import sequence_losses


@dataclass(frozen=True)
class Pattern:
    """The attention of some queries to some keys of a layer.

    Attributes:
        layer: Number of the layer.
        query: Head whose queries.
        group: KV group whose keys.
        free: Values can be chosen too; otherwise they are the group's.
    """

    layer: int
    query: int
    group: int
    free: bool


def row_gradients(
    model: PlasticModel, patterns: Mapping[int, Sequence[Pattern]], input_ids: Tensor, batch_size: int = 8
) -> dict[Pattern, Tensor]:
    """The gradient of the mean loss in the output rows of heads that the model does not have yet, were their gates open.

    Args:
        model: The model; it is left as it is.
        patterns: Patterns by layer.
        input_ids: (B, T) calibration text.
        batch_size: Sequences in one pass; the result does not depend on it.

    Returns:
        (E, E) by pattern where values are free: (A X)^T G with the layer's input X, so that values X V have the gradient V^T of
        it. Else (D, E): (A X V)^T G with the group's own values. Nats per token.
    """
    found: dict[Pattern, Tensor] = {}
    with frozen(model):
        for chunk in input_ids.split(batch_size):
            ids = chunk.to(model.device)
            slopes = _output_slopes(model, ids, len(input_ids))
            listener = _Listener(model, patterns, slopes)
            with torch.no_grad(), model.using(model.state.gates, listener), listener.hearing_inputs():
                model.model(input_ids=ids, use_cache=False)
            for pattern, gradient in listener.found.items():
                found[pattern] = found[pattern] + gradient if pattern in found else gradient
    return {pattern: gradient.cpu() for pattern, gradient in found.items()}


def _output_slopes(model: PlasticModel, ids: Tensor, sequences: int) -> list[Tensor]:
    """The gradient of the mean loss in what attention writes, (b * T, E) by layer."""
    leaves: list[Tensor] = []

    def add(module: Any, args: Any, output: Tensor) -> Tensor:
        leaves.append(torch.zeros_like(output, requires_grad=True))
        return output + leaves[-1]

    handles = [block.output.register_forward_hook(add) for block in model.blocks]
    try:
        with torch.enable_grad():
            loss = sequence_losses(model, ids).sum() / sequences
            slopes = torch.autograd.grad(loss, leaves)
    finally:
        for handle in handles:
            handle.remove()
    return [slope.flatten(0, -2).float() for slope in slopes]


class _Listener:
    """Stock attention that computes, beside its output, what heads of other patterns would have to learn from."""

    def __init__(
        self, model: PlasticModel, patterns: Mapping[int, Sequence[Pattern]], slopes: Sequence[Tensor]
    ) -> None:
        self.model, self.patterns, self.slopes = model, patterns, slopes
        self.found: dict[Pattern, Tensor] = {}
        self._inputs: dict[int, Tensor] = {}  # (B, T, E) by layer

    @contextmanager
    def hearing_inputs(self) -> Iterator[None]:
        """Note what each layer's value projection reads."""
        handles = []
        for layer, block in enumerate(self.model.blocks):

            def note(module: Any, args: tuple[Tensor, ...], layer: int = layer) -> None:
                self._inputs[layer] = args[0]

            handles.append(list(block.projections())[-1].register_forward_pre_hook(note))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

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
        seen = self._inputs.pop(layer)
        inputs = F.pad(seen.view(len(query), -1, seen.shape[-1]), (0, 0, 0, key.shape[2] - query.shape[2]))[:, None]
        for pattern in self.patterns[layer]:
            head, group = slice(pattern.query, pattern.query + 1), slice(pattern.group, pattern.group + 1)
            values = inputs if pattern.free else value[:, group]  # (B, 1, T', E or D)
            one = KvRun(1, 1, 1)
            read = attend(one, query[:, head], key[:, group], values, mask, scaling=scale, softcap=softcap)
            self.found[pattern] = read.flatten(0, -2).float().T @ self.slopes[layer]
        groups = query.shape[1] // key.shape[1]
        run = KvRun(query.shape[1], key.shape[1], groups)
        return attend(run, query, key, value, mask, scaling=scale, softcap=softcap)

    def note_mlp(self, layer: int, neurons: Tensor) -> Tensor:
        """Nothing to note."""
        return neurons
