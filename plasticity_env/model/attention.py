"""The one attention function of every architecture: stock SDPA, then a gate on each head, and a recorder's ear.

transformers hands the function ``query, key, value`` of shape (B, H, T, D) after rotary embedding and expects
(B, T, H, D), before the output projection; gate and statistics live exactly there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from plasticity_env.model.score_terms import attend, with_sinks

IMPLEMENTATION = "plastic"


class Recorder(Protocol):
    """Replaces the attention kernel for one pass and notes what it sees."""

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
        """Return the attention output (B, T, H, D), not yet gated.

        Args:
            layer: Number of the layer.
            query: (B, H, T, D').
            key: (B, G, T', D'); a sink is the last of T' = T + 1 keys.
            value: (B, G, T', D), D' >= D.
            mask: None for causal attention, or boolean / additive.
            scale: Factor on the scores.
            softcap: Bound of the scores, or None.
        """
        ...

    def note_mlp(self, layer: int, neurons: Tensor) -> Tensor:
        """Return a layer's MLP neurons (B, T, M), not yet gated."""
        ...


@dataclass
class GateState:
    """What all attention layers of one model share.

    Attributes:
        gates: None (all open: exactly the stock computation), (L, U), or (B, L, U) when a batch carries several masks;
            U units a layer are H heads, then MLP blocks.
        recorder: Set for the length of one measuring pass.
        replaced: A newer `PlasticModel` was put around the same model; this state reaches its layers no longer.
        heard: Where a set, names of the further arguments that attention modules hand over are added to it.
    """

    gates: Tensor | None = None
    recorder: Recorder | None = None
    replaced: bool = False
    heard: set[str] | None = None


@dataclass
class LayerGate:
    """A layer's link to the shared state; set as ``module.plastic`` on each attention module."""

    state: GateState = field(repr=False)
    layer: int = 0
    heads: int = 0


def plastic_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Stock scaled-dot-product attention, with soft caps and sinks where there are any, and a gate on each head's output.

    Args:
        module: The attention module; without a ``plastic`` link this is the stock function.
        query: (B, H, T, D).
        key, value: (B, G, T', D), G KV groups.
        attention_mask: None, or boolean / additive (B, 1, T, T').
        scaling: Factor on the scores, 1 / sqrt(D) when None.
        dropout: Attention dropout while training.
        softcap: Bound of the scores (Gemma-2), or None.
        s_aux: (H,) scores of attention sinks (GPT-OSS), or None.
        **kwargs: What else the stock function takes.

    Returns:
        (B, T, H, D) gated head outputs, and None in the place of the attention weights.
    """
    link: LayerGate | None = getattr(module, "plastic", None)
    recorder = link.state.recorder if link is not None else None
    if link is not None and link.state.heard is not None:
        link.state.heard |= {name for name, value in kwargs.items() if value is not None}
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if s_aux is not None:
        causal = bool(getattr(module, "is_causal", True))
        query, key, value, attention_mask = with_sinks(query, key, value, attention_mask, s_aux, scaling, causal)
    if link is not None and recorder is not None:
        out = recorder.attend(link.layer, query, key, value, attention_mask, scaling, softcap)
    else:
        kwargs |= {"scaling": scaling, "dropout": dropout, "softcap": softcap}
        out = attend(module, query, key, value, attention_mask, **kwargs)
    if link is not None and link.state.gates is not None:
        gate = link.state.gates[..., link.layer, : link.heads]  # (H,) or (B, H)
        gate = gate.to(out).unsqueeze(-2).unsqueeze(-1)  # (1, H, 1) or (B, 1, H, 1)
        out = out * gate if torch.is_grad_enabled() else out.mul_(gate)
    return out, None


@dataclass
class MlpGate:
    """Forward pre-hook on an MLP's output projection: a gate on each block of neurons that it reads."""

    link: LayerGate

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        state, (neurons,) = self.link.state, args  # (B, T, M), or (B * T, M) in OPT
        if state.recorder is not None:
            neurons = state.recorder.note_mlp(self.link.layer, neurons)
        if state.gates is None:
            return None
        gate = state.gates[..., self.link.layer, self.link.heads :].to(neurons)  # (m,) or (B, m)
        rows = gate.view(-1, 1, gate.shape[-1], 1)  # (1 or B, 1, m, 1)
        cut = neurons.reshape(len(rows), -1, gate.shape[-1], neurons.shape[-1] // gate.shape[-1])  # (.., m, M/m)
        return ((cut * rows).view(neurons.shape),)


AttentionInterface.register(IMPLEMENTATION, plastic_attention)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
