"""The network: shared weights over head tokens, so that one controller fits any number of layers and heads."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from plasticity_env.common.errors import InputError
from plasticity_env.envs.edits import EDITS
from plasticity_env.envs.observation import (
    GLOBAL_FEATURES,
    HEAD_FEATURES,
    NETWORK_GLOBAL_FEATURES,
    NETWORK_HEAD_FEATURES,
    global_columns,
    head_columns,
)

CONTEXTS = ("deep_sets", "attention", "linear")
ATTENTION_HEADS = 4


@dataclass(frozen=True)
class NetworkConfig:
    """Shape of the network, saved beside its weights.

    Attributes:
        head_features, global_features: Columns of the observation that it reads, by name.
        width: Number of hidden units.
        context: How heads see each other: "deep_sets" (the mean over heads), "attention" (one transformer layer), or "linear":
            not at all, the logits of a head are linear in its own features (no hidden units, no value).
        keep_bias: Initial logit of keeping a head as it is, over 0 for each edit.
    """

    head_features: tuple[str, ...] = NETWORK_HEAD_FEATURES
    global_features: tuple[str, ...] = NETWORK_GLOBAL_FEATURES
    width: int = 64
    context: str = "deep_sets"
    keep_bias: float = 2.0

    def __post_init__(self) -> None:
        if self.context not in CONTEXTS:
            raise InputError(f"unknown context {self.context!r}: use {' or '.join(CONTEXTS)}")
        if self.width < 1 or (self.context == "attention" and self.width % ATTENTION_HEADS):
            raise InputError(
                f"width {self.width} does not fit: at least 1, and a multiple of {ATTENTION_HEADS} with attention"
            )
        missing = [n for n in self.head_features if n not in HEAD_FEATURES]
        missing += [n for n in self.global_features if n not in GLOBAL_FEATURES]
        if missing:
            raise InputError(
                f"the controller reads features that this version's observation lacks: {', '.join(missing)}; "
                "train it again, or use the version that wrote it"
            )

    def to_json(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> NetworkConfig:
        """Read `to_json`'s form back."""
        tuples = {name: tuple(data[name]) for name in ("head_features", "global_features")}
        return cls(**{**data, **tuples})


class Output(NamedTuple):
    """What the network says of a batch.

    Attributes:
        edits: (B, N, 4) logits over keep, prune, revive, grow.
        stop: (B,) logit of stopping (HeadEdit only).
        value: (B,) expected return from here, nats.
        effects: (B, N, 4) what the critic thinks each edit of each head adds to the return, nats, up to a constant.
    """

    edits: Tensor
    stop: Tensor
    value: Tensor
    effects: Tensor


class HeadNetwork(nn.Module):
    """Policy and value over head tokens.

    Args:
        config: Shape of the network.
    """

    _head_columns: Tensor
    _global_columns: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("_head_columns", torch.tensor(head_columns(config.head_features)), persistent=False)
        self.register_buffer("_global_columns", torch.tensor(global_columns(config.global_features)), persistent=False)
        if config.context == "linear":
            self.linear = _layer(len(config.head_features), len(EDITS), 0.01)
            return
        inputs = len(config.head_features) + len(config.global_features)
        self.policy = _Encoder(inputs, config)
        self.critic = _Encoder(inputs, config)
        self.edits = _layer(2 * config.width, len(EDITS), 0.01)
        self.stop = _layer(config.width, 1, 0.01)
        self.value = _layer(config.width, 1, 1.0)
        self.effects = _layer(2 * config.width, len(EDITS), 0.01)
        with torch.no_grad():
            self.edits.bias[0] = config.keep_bias

    def forward(self, heads: Tensor, globals_: Tensor, valid: Tensor | None = None) -> Output:
        """Run the network.

        Args:
            heads: (B, N, F) head tokens of the observation, all columns.
            globals_: (B, G) global features, all columns.
            valid: (B, N) boolean, False for padding; None when nothing is padded.
        """
        heads = heads[..., self._head_columns]
        if self.config.context == "linear":
            edits, nothing = self.linear(heads), heads.new_zeros(len(heads))
            return Output(edits, nothing, nothing, torch.zeros_like(edits))
        shared = globals_[..., self._global_columns]
        tokens = torch.cat([heads, shared[:, None].expand(-1, heads.shape[1], -1)], -1)  # (B, N, F + G)
        if valid is None:
            valid = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        local, pooled = self.policy(tokens, valid)  # (B, N, W), (B, W)
        seen, overview = self.critic(tokens, valid)
        return Output(
            self.edits(torch.cat([local, pooled[:, None].expand_as(local)], -1)),
            self.stop(pooled)[:, 0],
            self.value(overview)[:, 0],
            self.effects(torch.cat([seen, overview[:, None].expand_as(seen)], -1)),
        )


class _Encoder(nn.Module):
    def __init__(self, inputs: int, config: NetworkConfig) -> None:
        super().__init__()
        width = config.width
        self.embed = nn.Sequential(_layer(inputs, width), nn.Tanh(), _layer(width, width), nn.Tanh())
        self.mix: nn.Module | None = None
        if config.context == "attention":
            self.mix = nn.TransformerEncoderLayer(
                width, ATTENTION_HEADS, 2 * width, dropout=0.0, batch_first=True, norm_first=True
            )

    def forward(self, tokens: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        local = self.embed(tokens)  # (B, N, W)
        if self.mix is not None:
            local = self.mix(local, src_key_padding_mask=~valid)
        weight = valid.to(local.dtype)[..., None]
        pooled = (local * weight).sum(1) / weight.sum(1).clamp(min=1)
        return local, pooled


def _layer(inputs: int, outputs: int, gain: float = 2**0.5) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer
