"""The arithmetic of large models agrees with what small ones really have."""

from __future__ import annotations

import pytest
import torch

from plasticity_env import load_model, make_env
from plasticity_env.agents.benchmarks.large_models import (
    COLUMNS,
    LargeModelConfig,
    forward_flops,
    moment_bytes,
    parts,
    table,
)
from plasticity_env.common.errors import InputError
from plasticity_env.model.flops import flop_table

SMALL = {"devices": 1, "gpus": 1, "tokens": 64}


def small() -> LargeModelConfig:
    config = load_model("bard-llama-4x8").model.config
    return LargeModelConfig(
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        neurons=config.intermediate_size,
        mlp_blocks=8,
        vocabulary=config.vocab_size,
        **SMALL,
    )


def test_flops_and_moments_are_those_of_a_real_model() -> None:
    model = load_model("bard-llama-4x8", mlp_blocks=8).model
    dense = flop_table(model, 64).total(torch.ones(model.shape, dtype=torch.bool))
    assert forward_flops(small()) == pytest.approx(dense, rel=1e-9)
    assert moment_bytes(small()) == sum(4.0 * site.output_weight().shape[0] ** 2 for site in model.sites)


def test_an_observation_has_as_many_columns_as_are_counted() -> None:
    env = make_env("plasticity/Heads-v1", model_name="bard-gpt2-4x4")
    assert env.observation_space["heads"].shape[1] == COLUMNS
    env.close()


def test_more_devices_take_less_time_and_moments_of_heads_alone_less_room() -> None:
    own = small()
    solves = sum(n**3 / 3 + 2 * n**2 * own.width for n in (own.heads * own.head_dim, own.neurons))
    assert parts(own)[2].flops == pytest.approx(own.layers * solves)
    first, more, heads = LargeModelConfig(), LargeModelConfig(devices=16), LargeModelConfig(mlp_blocks=0)
    assert all(b.seconds < a.seconds for a, b in zip(parts(first), parts(more), strict=True))
    assert moment_bytes(heads) == 4.0 * 80 * 8192**2
    assert "16 GPUs a copy" in table(LargeModelConfig(devices=16))[0]
    with pytest.raises(InputError, match="fewer than the 8 devices"):
        LargeModelConfig(gpus=4)
    with pytest.raises(InputError, match="multiple of kv_heads"):
        LargeModelConfig(kv_heads=7)
