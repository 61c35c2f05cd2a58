"""The models of the zoo: name, shape, and where an architecture keeps its attention output projection.

Everything that differs between architectures stands in this registry and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from plasticity_env.agents.pretraining.vocabulary import CONTEXT_LENGTH, VOCABULARY_SIZE


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder: layers, query heads, key-value heads, model width and feed-forward width."""

    layers: int
    heads: int
    kv_heads: int
    width: int
    inner: int

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.width // self.heads


@dataclass(frozen=True)
class Family:
    """One architecture: how to configure it, and the module path of layer l's attention output projection."""

    title: str
    configure: Callable[[Shape], PretrainedConfig]
    output_projection: str


@dataclass(frozen=True)
class ZooModel:
    """One model of the zoo; `held_out` ones are never used to train a controller, `corpus` is an entry of `CORPORA`."""

    name: str
    family: str
    shape: Shape
    held_out: bool = False
    corpus: str = "plays"


def _gpt2(shape: Shape) -> PretrainedConfig:
    return GPT2Config(
        vocab_size=VOCABULARY_SIZE,
        n_positions=CONTEXT_LENGTH,
        n_embd=shape.width,
        n_layer=shape.layers,
        n_head=shape.heads,
        n_inner=shape.inner,
        activation_function="gelu_pytorch_tanh",  # as gelu_new, in one kernel
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )


def _llama(shape: Shape) -> PretrainedConfig:
    return LlamaConfig(**_rotary(shape), num_key_value_heads=shape.kv_heads)


def _neox(shape: Shape) -> PretrainedConfig:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    return GPTNeoXConfig(**_rotary(shape), rope_parameters=rope)


def _rotary(shape: Shape) -> dict[str, Any]:
    """What the configurations of models with rotary position embeddings share."""
    return {
        "vocab_size": VOCABULARY_SIZE,
        "max_position_embeddings": CONTEXT_LENGTH,
        "hidden_size": shape.width,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }


FAMILIES: Final[dict[str, Family]] = {
    "gpt2": Family("GPT-2", _gpt2, "transformer.h.{layer}.attn.c_proj"),
    "llama": Family("Llama (grouped-query attention)", _llama, "model.layers.{layer}.self_attn.o_proj"),
    "gpt_neox": Family("GPT-NeoX", _neox, "gpt_neox.layers.{layer}.attention.dense"),
}

ZOO: Final[dict[str, ZooModel]] = {
    model.name: model
    for model in (
        ZooModel("bard-gpt2-4x4", "gpt2", Shape(4, 4, 4, 128, 512)),
        ZooModel("bard-llama-4x8", "llama", Shape(4, 8, 2, 128, 352)),
        ZooModel("bard-gpt2-6x8", "gpt2", Shape(6, 8, 8, 128, 512)),
        ZooModel("bard-llama-6x8", "llama", Shape(6, 8, 4, 128, 352)),
        ZooModel("bard-neox-5x6", "gpt_neox", Shape(5, 6, 6, 144, 576), held_out=True),
        ZooModel("mixed-llama-4x8", "llama", Shape(4, 8, 4, 64, 176), corpus="mixed"),
    )
}

POOL: Final[dict[str, ZooModel]] = {
    model.name: model
    for model in (
        ZooModel("bard-gpt2-3x6", "gpt2", Shape(3, 6, 6, 96, 384)),
        ZooModel("bard-gpt2-8x6", "gpt2", Shape(8, 6, 6, 96, 384)),
        ZooModel("bard-gpt2-10x4", "gpt2", Shape(10, 4, 4, 96, 384)),
        ZooModel("bard-gpt2-12x6", "gpt2", Shape(12, 6, 6, 96, 384)),
        ZooModel("bard-llama-5x6", "llama", Shape(5, 6, 6, 144, 384)),
        ZooModel("bard-llama-8x6", "llama", Shape(8, 6, 2, 96, 256)),
        ZooModel("bard-llama-10x9", "llama", Shape(10, 9, 3, 108, 288)),
        ZooModel("bard-llama-12x6", "llama", Shape(12, 6, 3, 96, 256)),
        ZooModel("bard-gpt2-7x6", "gpt2", Shape(7, 6, 6, 144, 576), held_out=True),
        ZooModel("bard-llama-16x6", "llama", Shape(16, 6, 2, 96, 256), held_out=True),
    )
}
"""Further models for controllers to learn from; the held-out ones choose among controllers."""


def find_model(name: str) -> ZooModel:
    """The zoo's entry of this name.

    Raises:
        ValueError: for a name that the zoo does not have.
    """
    known = {**ZOO, **POOL}
    if name not in known:
        raise ValueError(f"unknown model {name!r}; the zoo has: {', '.join(known)}.")
    return known[name]


def build_model(spec: ZooModel, seed: int) -> PreTrainedModel:
    """A freshly initialised float32 model, the same for the same seed."""
    torch.manual_seed(seed)
    config = FAMILIES[spec.family].configure(spec.shape)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model


def output_projections(model: PreTrainedModel, spec: ZooModel) -> list[nn.Module]:
    """The attention output projections, one per layer; their input is the heads' outputs side by side."""
    path = FAMILIES[spec.family].output_projection
    return [model.get_submodule(path.format(layer=layer)) for layer in range(spec.shape.layers)]
