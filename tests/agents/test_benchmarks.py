"""Benchmarks as functions: rows with the figures that they promise."""

from __future__ import annotations

import sys
import time

import pytest
import torch
import transformers as tf

from plasticity_env import InputError, PlasticModel, flops
from plasticity_env.agents.benchmarks import bench_compact as compact
from plasticity_env.agents.benchmarks.bench_compact import compact_rows
from plasticity_env.agents.benchmarks.bench_decode import Generation, decode_rows
from plasticity_env.agents.benchmarks.bench_options import Options
from plasticity_env.agents.benchmarks.bench_peers import prune_one_head_per_group, why_not
from plasticity_env.agents.benchmarks.bench_prefix import prefix_rows
from plasticity_env.common.stopwatch import timed
from plasticity_env.controllers.planners.taylor import taylor_importance
from plasticity_env.envs.settings import Settings
from plasticity_env.model.flops import kv_cache_bytes
from plasticity_env.model.loading import load_model
from tests.conftest import CONFIGS, build


def test_compact_rows_set_time_beside_flops(monkeypatch):
    monkeypatch.setattr(compact, "CALIBRATION_TOKENS", 512)
    options = Options(
        models="bard-llama-4x8", lengths="32", tokens=64, sparsities="0.25,0.5", rounds=1, test_tokens=512
    )
    rows = list(compact_rows(options))
    assert [row.removed for row in rows][:2] == [8, 16]
    for row in rows[:2]:
        assert row.heads == 32
        assert row.flops_ratio < 1
        assert row.time_over_flops == pytest.approx(row.time_ratio / row.flops_ratio)
        assert row.compact_perplexity > row.dense_perplexity > 1
        assert row.peer is None
    with pytest.raises(InputError, match="sparsities"):
        next(compact_rows(Options(sparsities="1.5")))


def test_decode_rows_count_the_cache_and_leave_it_as_it_was(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    options = Options(models="bard-llama-4x8", lengths="32", tokens=64, sparsities="0.5", rounds=1, new_tokens=3)
    heads, both = decode_rows(options)
    assert (heads.mlp_blocks, both.mlp_blocks) == (0, 8)
    assert heads.removed_blocks == 0 < both.removed_blocks
    for row in (heads, both):
        assert row.flops_ratio < 1
        assert row.kv_bytes <= row.dense_kv_bytes
        assert row.tokens_s > 0
    loaded = load_model("bard-llama-4x8")
    ids = torch.randint(1, 100, (1, 32), generator=torch.Generator().manual_seed(0))
    generation = Generation(loaded.model.model, ids, 5)
    assert generation.kv_bytes == 32 * kv_cache_bytes(loaded.model)
    for _ in range(2):
        generation.decode()
        assert generation.kv_bytes == 32 * kv_cache_bytes(loaded.model)
        plain = loaded.model.model.generate(ids, max_new_tokens=5, do_sample=False, eos_token_id=None)
        assert generation.tokens == plain[0, 32:].tolist()
    with pytest.raises(InputError, match="sparsities"):
        next(decode_rows(Options(sparsities="0")))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("bard-llama-4x8", "it is not installed (pip install -e '.[bench]')"),
        ("bard-llama-6x8", "it needs several KV groups of more than two heads, not 4 of 2"),
        ("bard-gpt2-4x4", "it needs separate q, k and v projections"),
    ],
)
def test_a_row_beside_torch_pruning_that_is_left_out_is_said(monkeypatch, capsys, name, reason):
    monkeypatch.setattr(compact, "CALIBRATION_TOKENS", 64)
    monkeypatch.setitem(sys.modules, "torch_pruning", None)  # as if it were not installed
    options = Options(models=name, lengths="32", tokens=32, sparsities="0.25", rounds=1, test_tokens=32)
    assert [row.peer for row in compact_rows(options)] == [None]
    assert capsys.readouterr().err == f"{name}, T = 32: no row beside torch-pruning: {reason}\n"


def test_torch_pruning_removes_one_head_of_each_group():
    pytest.importorskip("torch_pruning")
    config = tf.LlamaConfig(
        vocab_size=128,
        hidden_size=96,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        intermediate_size=64,
    )
    model = PlasticModel(tf.LlamaForCausalLM(config).eval())
    assert why_not(model) is None
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ids = torch.randint(0, 128, (2, 16), generator=torch.Generator().manual_seed(0))
    pruned = prune_one_head_per_group(model, ids)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for layer in pruned.model.layers:
        assert layer.self_attn.q_proj.weight.shape == (64, 96)
        assert layer.self_attn.k_proj.weight.shape == (32, 96)
    with torch.no_grad():
        assert torch.isfinite(pruned(ids).logits).all()
    model.prune(torch.tensor([[True, False, False, False, True, False]] * 2))
    assert flops(pruned, 16) == flops(model, 16)


@pytest.mark.parametrize("architecture", sorted(CONFIGS))
def test_taylor_importance_ranks_heads_as_torch_pruning_does(architecture, ids):
    """On an architecture that it can trace; and by hand: |gradient x weight|, summed over what a head owns, over the mean."""
    pytest.importorskip("torch_pruning")
    model = PlasticModel(build(architecture))
    found = taylor_importance(model, ids)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert found.shape == model.shape
    assert found.mean(1).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)
    model.requires_grad_(True)
    for row in ids.split(1):
        model.model(input_ids=row, labels=row).loss.backward()
    for layer, block in enumerate(model.blocks):
        channels = torch.zeros(block.heads, block.head_dim)
        for head in range(block.heads):
            rows = [block.query_slices(head), [block.output_slice(head)]]
            if block.group_size == 1:  # torch-pruning does not count keys and values that several heads share
                rows += _halves(block.kv_slices(head))
            for pieces in rows:
                piece = next(each for each in pieces if each.parameter.ndim == 2)
                change = (piece.data * piece.narrow(piece.parameter.grad)).double()
                channels[head] += change.abs().sum(1 - piece.dim).float()
        by_hand = channels.mean(1) / channels.mean()
        torch.testing.assert_close(found[layer], by_hand, rtol=1e-3, atol=1e-4)


def _halves(pieces):
    middle = len(pieces) // 2
    return pieces[:middle], pieces[middle:]


def test_prefix_rows_compare_equal_losses():
    options = Options(models="bard-gpt2-4x4", lengths="32", tokens=64, rounds=1, clock="cpu")
    for row in prefix_rows(options):
        assert row.loss_difference < 1e-5
        assert row.whole_s > 0
        assert row.whole_over_prefix > 0


def test_processor_seconds_leave_out_sleep():
    device = torch.device("cpu")
    assert timed(lambda: time.sleep(0.05), device, "wall") >= 0.05
    assert timed(lambda: time.sleep(0.05), device, "cpu") < 0.03


def test_processor_seconds_say_nothing_about_a_gpu():
    with pytest.raises(InputError, match="processor seconds"):
        Options(clock="cpu", settings=Settings(device="cuda")).check()
