"""What the first tokens of a text tell: their loss, how sure the model is, and a fixed random projection of hidden states."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plasticity_env.model.gated_model import GatedModel
from plasticity_env.model.layer_stream import hidden_of
from plasticity_env.model.layouts import transformer_layers

WIDTH = 32  # numbers of the projection
VIEWED = ("hidden", "loss", "entropy", "tokens", "pooled")
SEED = 0  # of the projection: banks and routers of one model share it


@dataclass(frozen=True)
class PrefixView:
    """What B texts' first tokens tell.

    Attributes:
        hidden: (B, 32) random projection of the hidden states in the middle and at the end of the model, each divided by its
            size and averaged over the tokens.
        loss: (B,) mean next-token loss over them, nats; 0 where a text has a single token.
        entropy: (B,) mean entropy of the next-token distribution, nats.
        tokens: (B,) how many tokens were read.
        pooled: (B, 2 E) those hidden states before the projection, by which texts are compared.
    """

    hidden: Tensor
    loss: Tensor
    entropy: Tensor
    tokens: Tensor
    pooled: Tensor

    @property
    def features(self) -> Tensor:
        """(B, 34) float32 on the CPU: the projection, then loss and entropy."""
        parts = [self.hidden, self.loss[:, None], self.entropy[:, None]]
        return torch.cat([part.float().cpu() for part in parts], 1)

    def __len__(self) -> int:
        return len(self.loss)

    def row(self, number: int) -> PrefixView:
        """One of the texts, alone."""
        cut = slice(number, number + 1)
        return PrefixView(*(getattr(self, name)[cut] for name in VIEWED))


@dataclass
class Tap:
    """Hidden states of one forward, (B, T, E) each: after the middle layer and after the last."""

    states: list[Tensor] = field(default_factory=list)


class PrefixReader:
    """Reads hidden states while a model runs, and makes of them what routers look at.

    Args:
        model: The model.
    """

    def __init__(self, model: GatedModel) -> None:
        self._model = model
        layers = transformer_layers(model.model)
        self._layers: list[nn.Module] = [layers[(len(layers) - 1) // 2], layers[-1]]
        embedding = model.model.get_input_embeddings()  # type: ignore[operator]
        width = 2 * int(getattr(model.config, "hidden_size", embedding.weight.shape[1]))
        drawn = torch.randn(width, WIDTH, generator=torch.Generator().manual_seed(SEED))
        self._projection = (drawn / width**0.5).to(model.device)

    @property
    def flops(self) -> float:
        """FLOPs of the projection, once a text."""
        return 2.0 * self._projection.numel()

    @contextmanager
    def listening(self) -> Iterator[Tap]:
        """Note the hidden states of the forwards inside; each overwrites the last."""
        tap = Tap()

        def note(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if len(tap.states) == 2:
                tap.states.clear()
            tap.states.append(hidden_of(output).detach())

        hooks = [layer.register_forward_hook(note) for layer in self._layers]
        try:
            yield tap
        finally:
            for hook in hooks:
                hook.remove()

    def view(self, tap: Tap, logits: Tensor, input_ids: Tensor, mask: Tensor) -> PrefixView:
        """What the tokens of one forward tell.

        Args:
            tap: Their hidden states.
            logits: (B, T, V).
            input_ids: (B, T).
            mask: (B, T) boolean, True for the tokens that count.
        """
        weights = mask.float()
        tokens = weights.sum(1).clamp(min=1)
        both = torch.cat(
            [F.normalize(state.float(), dim=-1) * state.shape[-1] ** 0.5 for state in tap.states[-2:]], -1
        )  # (B, T, 2 E)
        pooled = (both * weights[..., None]).sum(1) / tokens[:, None]
        log = logits.float().log_softmax(-1)
        entropy = -(log.exp() * log).sum(-1)
        counted = weights[:, 1:] * weights[:, :-1]
        losses = -log[:, :-1].gather(2, input_ids[:, 1:, None])[..., 0] * counted
        loss = losses.sum(1) / counted.sum(1).clamp(min=1)
        entropy = (entropy * weights).sum(1) / tokens
        return PrefixView(pooled @ self._projection, loss, entropy, mask.sum(1), pooled)

    @torch.no_grad()
    def read(self, input_ids: Tensor, batch_size: int = 8) -> PrefixView:
        """What whole texts of equal length tell, (B, T): forwards of the model as it is."""
        views = []
        for chunk in input_ids.split(batch_size):
            ids = chunk.to(self._model.device)
            with self.listening() as tap:
                logits = self._model.model(input_ids=ids, use_cache=False).logits
            views.append(self.view(tap, logits, ids, torch.ones_like(ids, dtype=torch.bool)))
        return joined(views)


def joined(views: list[PrefixView]) -> PrefixView:
    """Views of several batches as of one."""
    return PrefixView(*(torch.cat([getattr(view, name) for view in views]) for name in VIEWED))
