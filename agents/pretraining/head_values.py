"""Measurements on packed text: perplexity, bits per byte, and what each attention head is worth."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from plasticity_env.agents.pretraining.architectures import ZooModel, output_projections


@dataclass(frozen=True)
class Score:
    """Quality on packed text: nats per token, its exponential, and bits per byte of the scored text."""

    nll: float
    perplexity: float
    bits_per_byte: float
    tokens: int
    block_length: int


@torch.no_grad()
def total_nll(model: PreTrainedModel, blocks: Tensor, rows: int = 16) -> float:
    """Summed negative log-likelihood in nats of (B, T) blocks; a block's first token is only context."""
    model.eval()
    device = next(model.parameters()).device
    total = 0.0
    for chunk in blocks.split(rows):
        batch = chunk.to(device)
        logits = model(batch, use_cache=False).logits[:, :-1].float()  # (b, T-1, V)
        loss = functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="none")
        total += float(loss.double().sum())
    return total


def score(model: PreTrainedModel, blocks: Tensor, token_bytes: Tensor) -> Score:
    """Perplexity and bits per byte of (B, T) blocks; `token_bytes` (V,) is each token's length in bytes."""
    targets = blocks[:, 1:]
    total = total_nll(model, blocks)
    nll = total / targets.numel()
    bits = total / torch.log(torch.tensor(2.0, dtype=torch.float64)).item()
    return Score(
        nll=nll,
        perplexity=float(torch.tensor(nll, dtype=torch.float64).exp()),
        bits_per_byte=bits / int(token_bytes[targets].sum()),
        tokens=targets.numel(),
        block_length=blocks.shape[1],
    )


def together(scores: Sequence[Score]) -> Score:
    """The score of all texts together from those of each, whose blocks are of one length."""
    tokens = sum(each.tokens for each in scores)
    bits = [each.nll * each.tokens / math.log(2) for each in scores]
    nll = sum(bits) * math.log(2) / tokens
    text_bytes = sum(round(all_bits / each.bits_per_byte) for all_bits, each in zip(bits, scores, strict=True))
    return Score(nll, math.exp(nll), sum(bits) / text_bytes, tokens, scores[0].block_length)


@contextmanager
def silenced(projection: nn.Module, head: int, head_dim: int) -> Iterator[None]:
    """While open, `head` gives nothing to this output projection (the same as zeroing its rows there)."""

    def zero(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        heads = inputs[0].clone()  # (b, T, H * head_dim)
        heads[..., head * head_dim : (head + 1) * head_dim] = 0
        return (heads, *inputs[1:])

    handle = projection.register_forward_pre_hook(zero)
    try:
        yield
    finally:
        handle.remove()


def silenced_nll(model: PreTrainedModel, spec: ZooModel, blocks: Tensor, layer: int, head: int) -> float:
    """Nats per token on (B, T) `blocks` with one head silenced."""
    with silenced(output_projections(model, spec)[layer], head, spec.shape.head_dim):
        return total_nll(model, blocks) / blocks[:, 1:].numel()


def ablation_deltas(model: PreTrainedModel, spec: ZooModel, blocks: Tensor) -> Tensor:
    """Rise in nats per token when each head alone is silenced, shape (L, H), float64."""
    intact = total_nll(model, blocks) / blocks[:, 1:].numel()
    deltas = torch.zeros(spec.shape.layers, spec.shape.heads, dtype=torch.float64)
    for layer in range(spec.shape.layers):
        for head in range(spec.shape.heads):
            deltas[layer, head] = silenced_nll(model, spec, blocks, layer, head) - intact
    return deltas
