"""Toy models of two layers with two heads, random text for them, and what their forward costs, counted by hand."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import torch
import transformers as tf

from plasticity_env import LoadedModel, PlasticModel, TextSplits

VOCABULARY, WIDTH, HEADS, LAYERS, TOKENS, BLOCKS = 32, 16, 2, 2, 8, 2
NEURONS = {"gpt2": 4 * WIDTH, "llama": 2 * WIDTH}
ARCHITECTURES = sorted(NEURONS)  # llama's two heads share one KV group
_SHARED: dict[str, Any] = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0}


def toy_config(architecture: str) -> Any:
    if architecture == "gpt2":
        return tf.GPT2Config(n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=32, **_SHARED)
    return tf.LlamaConfig(
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=1,
        intermediate_size=NEURONS["llama"],
        max_position_embeddings=32,
        tie_word_embeddings=False,
        **_SHARED,
    )


@cache
def _wrapped(architecture: str, mlp_blocks: int) -> PlasticModel:
    torch.manual_seed(0)
    model = tf.AutoModelForCausalLM.from_config(toy_config(architecture)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "embed" not in name and "wte" not in name:
                parameter.normal_(std=0.4)  # far from uniform attention
            elif name.endswith("bias"):
                parameter.normal_(std=0.05)
    return PlasticModel(model, mlp_blocks=mlp_blocks)


def toy_model(architecture: str = "gpt2", mlp_blocks: int = 0) -> LoadedModel:
    """A copy of its own, without a tokenizer."""
    return LoadedModel(copy.deepcopy(_wrapped(architecture, mlp_blocks)), None, f"toy {architecture}")


@cache
def toy_text() -> TextSplits:
    generator = torch.Generator().manual_seed(1)
    blocks = {
        split: torch.randint(0, VOCABULARY, (6, TOKENS), generator=generator)
        for split in ("train", "calibration", "reward", "test")
    }
    return TextSplits("toy", TOKENS, None, {}, blocks)


def flops_by_hand(architecture: str, active: torch.Tensor) -> float:
    """Forward FLOPs per token of the units that are left; columns after the heads are MLP blocks, all there if not asked for."""
    head_width = WIDTH // HEADS
    matrix = 2.0 * WIDTH * head_width  # a projection's part of one head or group
    heads = active[:, :HEADS]
    blocks = float(active[:, HEADS:].sum()) if active.shape[1] > HEADS else LAYERS * BLOCKS
    attention = float(heads.sum()) * 4 * TOKENS * head_width
    if architecture == "gpt2":
        projections = float(heads.sum()) * 4 * matrix
        neurons = blocks * 2 * 2.0 * WIDTH * NEURONS["gpt2"] / BLOCKS
    else:
        projections = float(heads.sum()) * 2 * matrix + float(heads.any(1).sum()) * 2 * matrix
        neurons = blocks * 3 * 2.0 * WIDTH * NEURONS["llama"] / BLOCKS
    return attention + projections + neurons + 2.0 * WIDTH * VOCABULARY
