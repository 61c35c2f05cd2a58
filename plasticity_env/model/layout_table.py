"""Where the rows of a head lie, architecture by architecture; the rest of the package never asks which model it holds.

A new architecture is one call: ``register_layout("my_type", Layout(...))``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from plasticity_env.common.registries import Registry

Split = Literal["separate", "fused", "interleaved"]


@dataclass(frozen=True)
class Layout:
    """Names of the parts of one architecture.

    Attributes:
        layers: Dotted path from the causal LM to its list of transformer blocks.
        attention: Name of the attention module inside a block.
        output: Name of the output projection inside the attention module.
        split: ``separate`` (q, k and v projections of their own), ``fused`` (all q, then all k, then all v in one
            projection) or ``interleaved`` (q, k, v of head 0, then of head 1, ...).
        projections: Names of the projections: (q, k, v) when separate, else the one fused projection.
        mlp: Name of the MLP inside a block; "" where its projections are the block's own.
        mlp_inputs: Names of the projections that make the neurons (gate and up, or one).
        mlp_output: Name of the projection that reads the neurons.
        post_norm: What a projection writes is normalised before it joins the residual stream (Gemma-3).
        attention_norm, mlp_norm: Name of the norm inside a block that nothing but the attention (the MLP) reads, which
            goes with it; "" where there is none, or where it depends on the configuration.
    """

    layers: str
    attention: str
    output: str
    split: Split
    projections: tuple[str, ...]
    mlp: str = "mlp"
    mlp_inputs: tuple[str, ...] = ("gate_proj", "up_proj")
    mlp_output: str = "down_proj"
    post_norm: bool = False
    attention_norm: str = ""
    mlp_norm: str = ""


_QKV = ("q_proj", "k_proj", "v_proj")
_LLAMA = Layout(
    "model.layers",
    "self_attn",
    "o_proj",
    "separate",
    _QKV,
    attention_norm="input_layernorm",
    mlp_norm="post_attention_layernorm",
)
LAYOUTS: Registry[Layout] = Registry(
    "architecture",
    {
        "gpt2": Layout(
            "transformer.h",
            "attn",
            "c_proj",
            "fused",
            ("c_attn",),
            "mlp",
            ("c_fc",),
            "c_proj",
            attention_norm="ln_1",
            mlp_norm="ln_2",
        ),
        "llama": _LLAMA,
        "mistral": _LLAMA,
        "qwen2": _LLAMA,
        "qwen3": _LLAMA,
        "gemma3_text": replace(_LLAMA, post_norm=True, mlp_norm="pre_feedforward_layernorm"),
        "phi": Layout("model.layers", "self_attn", "dense", "separate", _QKV, "mlp", ("fc1",), "fc2"),
        "opt": Layout("model.decoder.layers", "self_attn", "out_proj", "separate", _QKV, "", ("fc1",), "fc2"),
        "gpt_neox": Layout(
            "gpt_neox.layers",
            "attention",
            "dense",
            "interleaved",
            ("query_key_value",),
            "mlp",
            ("dense_h_to_4h",),
            "dense_4h_to_h",
            attention_norm="input_layernorm",
            mlp_norm="post_attention_layernorm",
        ),
    },
    "; add yours with plasticity_env.register_layout(model_type, Layout(...))",
)
find_layout = LAYOUTS.find


def register_layout(model_type: str, layout: Layout) -> None:
    """Teach the package a new architecture (``config.model_type`` is the key).

    Raises:
        InputError: The architecture is one that comes with the package.
    """
    LAYOUTS.add(model_type, layout)


def known_layouts() -> list[str]:
    """Names of the architectures that can be wrapped."""
    return sorted(LAYOUTS)
