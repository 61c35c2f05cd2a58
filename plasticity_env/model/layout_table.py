"""Where the rows of a head lie, architecture by architecture; the rest of the package never asks which model it holds.

A new architecture is one call: ``register_layout("my_type", Layout(...))``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from plasticity_env.common.errors import InputError
from plasticity_env.common.registries import Registry

Split = Literal["separate", "fused", "interleaved", "grouped"]


@dataclass(frozen=True)
class Layout:
    """Names of the parts of one architecture.

    Attributes:
        layers: Dotted path from the causal LM to its list of transformer blocks.
        attention: Name of the attention module inside a block.
        output: Name of the output projection inside the attention module.
        split: ``separate`` (q, k and v projections of their own), ``fused`` (all q, then all k, then all v in one
            projection), ``interleaved`` (q, k, v of head 0, then of head 1, ...) or ``grouped`` (all q of KV group 0, its
            k, its v, then those of group 1, ...).
        projections: Names of the projections: (q, k, v) when separate, else the one fused projection.
        mlp: Name of the MLP inside a block; "" where its projections are the block's own.
        mlp_inputs: Names of the projections that make the neurons (gate and up, or one); () where blocks of neurons are no
            units, as in a mixture of experts.
        mlp_output: Name of the projection that reads the neurons.
        post_norm: What a projection writes is normalised before it joins the residual stream (Gemma-3).
        attention_norm, mlp_norm: Name of the norm inside a block that nothing but the attention (the MLP) reads, which
            goes with it; "" where there is none, or where it depends on the configuration.
        residual_factor: Name of the block's attribute by which what a projection writes is multiplied before it joins the
            residual stream (Granite); "" where it is not.
        per_head, per_group: Dotted names, inside the attention module, of what holds one entry for each query head (KV
            group) beside the projections: a parameter whose first dimension counts them, or a list of modules. Left out
            where the configuration leaves it out.
        whole_norm: Queries and keys are normalised over all heads at once (OLMo-2): their projections stay whole when
            heads are removed, so that the norm sees what it saw.
        counts_by_config: The attention module finds its queries by the configuration's number of heads (Phi-3).
        attention_class: ``module:class`` of a subclass of the stock attention module that goes through transformers' attention
            interface, for an architecture that does not; wrapped and compacted models run it in the place of the stock one.
        returns_tuple: A block returns a tuple that begins with its hidden states, and not these alone.
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
    residual_factor: str = ""
    per_head: tuple[str, ...] = ()
    per_group: tuple[str, ...] = ()
    whole_norm: bool = False
    counts_by_config: bool = False
    attention_class: str = ""
    returns_tuple: bool = False


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
_POST_NORM = replace(
    _LLAMA, post_norm=True, attention_norm="", mlp_norm=""
)  # norms after the projections and none before
_SHARED_NORM = replace(_LLAMA, attention_norm="", mlp_norm="")  # attention and MLP read the same norm
_EXPERTS = replace(_LLAMA, mlp_inputs=(), mlp_norm="")  # a mixture of experts: heads are the only units
_FUSED = replace(_LLAMA, mlp_inputs=("gate_up_proj",))
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
        "stablelm": replace(_SHARED_NORM, per_head=("q_layernorm.norms",), per_group=("k_layernorm.norms",)),
        "olmo": _LLAMA,
        "olmo2": replace(_POST_NORM, whole_norm=True),
        "cohere": replace(_SHARED_NORM, per_head=("q_norm.weight",), per_group=("k_norm.weight",)),
        "granite": replace(_LLAMA, residual_factor="residual_multiplier"),
        "smollm3": _LLAMA,
        "starcoder2": replace(_LLAMA, mlp_inputs=("c_fc",), mlp_output="c_proj"),
        "gemma": _LLAMA,
        "gemma2": replace(_LLAMA, post_norm=True, mlp_norm="pre_feedforward_layernorm"),
        "exaone4": _POST_NORM,
        "glm4": replace(_FUSED, post_norm=True),
        "phi3": replace(_FUSED, split="fused", projections=("qkv_proj",), counts_by_config=True),
        "falcon": Layout(
            "transformer.h",
            "self_attention",
            "dense",
            "grouped",
            ("query_key_value",),
            "mlp",
            ("dense_h_to_4h",),
            "dense_4h_to_h",
            attention_class="plasticity_env.model.falcon_attention:GatedFalconAttention",
            returns_tuple=True,
        ),
        "gpt_oss": replace(_EXPERTS, per_head=("sinks",)),
        "mixtral": _EXPERTS,
        "qwen2_moe": _EXPERTS,
        "qwen3_moe": _EXPERTS,
    },
    "; add yours with plasticity_env.register_layout(model_type, Layout(...))",
)
REFUSED = {
    name: "its attention does not go through transformers' attention interface, so that no gate would reach its heads"
    for name in ("gptj", "bloom", "mpt")
}


def find_layout(model_type: str) -> Layout:
    """Return the layout of an architecture.

    Raises:
        InputError: There is none; of architectures that are known not to work, the reason is given.
    """
    if model_type in REFUSED and model_type not in LAYOUTS:
        raise InputError(f"architecture {model_type!r} is not supported: {REFUSED[model_type]}")
    return LAYOUTS.find(model_type)


def register_layout(model_type: str, layout: Layout) -> None:
    """Teach the package a new architecture (``config.model_type`` is the key).

    Raises:
        InputError: The architecture is one that comes with the package.
    """
    LAYOUTS.add(model_type, layout)


def known_layouts() -> list[str]:
    """Names of the architectures that can be wrapped."""
    return sorted(LAYOUTS)
