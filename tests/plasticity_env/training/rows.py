"""Where the rows of heads lie in the embedded models, written down by hand."""

from __future__ import annotations

from functools import lru_cache

from plasticity_env import load_model, load_text
from plasticity_env.model.embedded import embedded_models

GPT2, LLAMA = "bard-gpt2-4x4", "bard-llama-4x8"
assert {GPT2, LLAMA} <= set(embedded_models())


def head_rows(name, layer, head):
    """(parameter name, index) of what only this query head uses; keys and values of Llama are its group's."""
    if name == GPT2:  # 4 heads of 32 in 128; Conv1D: inputs x outputs, queries, keys, values side by side
        at = slice(head * 32, head * 32 + 32)
        attention = f"transformer.h.{layer}.attn"
        rows = [(f"{attention}.c_proj.weight", (at,))]
        for part in range(3):
            columns = slice(part * 128 + at.start, part * 128 + at.stop)
            rows += [(f"{attention}.c_attn.weight", (slice(None), columns)), (f"{attention}.c_attn.bias", (columns,))]
        return rows
    at = slice(head * 16, head * 16 + 16)  # 8 heads of 16, 2 groups of 4; Linear: outputs x inputs
    attention = f"model.layers.{layer}.self_attn"
    return [(f"{attention}.q_proj.weight", (at,)), (f"{attention}.o_proj.weight", (slice(None), at))]


def group_rows(layer, group):
    """The same of a KV group of Llama."""
    at = slice(group * 16, group * 16 + 16)
    return [(f"model.layers.{layer}.self_attn.{part}_proj.weight", (at,)) for part in "kv"]


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.model.named_parameters()}


@lru_cache
def text(name, block_size=16):
    return load_text("shakespeare", load_model(name).tokenizer, block_size=block_size)
