"""Removed equals masked: logits, cache, generation, gradients, training, files, costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, DynamicCache

from plasticity_env import InputError, PlasticModel, flops, kv_cache_bytes
from plasticity_env.model.compact.build import model_cuts
from plasticity_env.model.compact.classes import is_compact
from plasticity_env.model.flops import parameter_table
from plasticity_env.model.guards import raw_state
from tests.conftest import CONFIGS, EVERY, HEADS_ONLY, build, but

ARCHITECTURES = pytest.mark.parametrize("architecture", EVERY)
GREEDY = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None, "use_cache": True}
IDS = torch.randint(1, 128, (3, 12), generator=torch.Generator().manual_seed(1))
# every query head and MLP block of two layers of four and four, at least one head
ACTIVE = st.integers(1, 2**16 - 1).filter(lambda bits: bits & 0x0F0F)


def masked(architecture, bits=0xFFFF, mlp_blocks=4, dtype=torch.float32):
    """A model of 2 layers x (4 heads, 4 MLP blocks) of which the low 8 bits keep units of layer 0, the high of layer 1."""
    model = PlasticModel(build(architecture).to(dtype), mlp_blocks=0 if architecture in HEADS_ONLY else mlp_blocks)
    active = torch.tensor([bits >> i & 1 for i in range(16)], dtype=torch.bool).view(2, 8)
    model.prune(~active[:, : model.shape[1]])
    return model


def assert_close(found, wanted, tolerance=1e-5):
    assert float((found - wanted).detach().abs().max()) <= tolerance * float(wanted.detach().abs().max())


@torch.no_grad()
def step_by_step(model, ids, cache):
    """Logits of a prompt of 8 tokens and then one token at a time."""
    rows = [model(ids[:, :8], past_key_values=cache, use_cache=True).logits]
    rows += [model(ids[:, t : t + 1], past_key_values=cache, use_cache=True).logits for t in range(8, ids.shape[1])]
    return torch.cat(rows, 1)


@ARCHITECTURES
@settings(max_examples=6, deadline=None)
@given(bits=ACTIVE)
def test_logits_cache_and_generation_equal_the_masked_models(architecture, bits):
    model = masked(architecture, bits)
    compacted = model.compact()
    with torch.no_grad():
        wanted = model(IDS).logits
        assert_close(compacted(IDS).logits, wanted)
    assert_close(step_by_step(compacted, IDS, DynamicCache(config=compacted.config)), wanted)
    assert_close(step_by_step(compacted, IDS, DynamicCache()), wanted)
    generated = model.generate(IDS, max_new_tokens=6, **GREEDY)
    assert torch.equal(compacted.generate(IDS, max_new_tokens=6, **GREEDY), generated)
    for tokens in (16, 64):
        assert flops(compacted, tokens) == pytest.approx(flops(model, tokens))
    assert kv_cache_bytes(compacted) == kv_cache_bytes(model)


@ARCHITECTURES
def test_padding_and_half_precision(architecture):
    model = masked(architecture, 0b01110110_11010011)
    padding = torch.ones_like(IDS)
    padding[0, :5] = 0  # left padding, as generation uses it
    with torch.no_grad():
        wanted = model(IDS, attention_mask=padding).logits
        found = model.compact()(IDS, attention_mask=padding).logits
        assert_close(found[padding.bool()], wanted[padding.bool()])
        model.to(torch.bfloat16)
        compacted = model.compact()
        assert compacted.dtype == torch.bfloat16
        assert_close(compacted(IDS).logits.float(), model(IDS).logits.float(), 1e-2)


@ARCHITECTURES
def test_gradients_and_parameters_are_those_that_are_kept(architecture):
    model = masked(architecture, 0b11100110_01110111, dtype=torch.float64)
    compacted = model.compact()
    for each in (model, compacted):
        each(IDS, labels=IDS).loss.backward()
    cuts, own = model_cuts(model), dict(compacted.named_parameters())
    assert sum(p.numel() for p in own.values()) == parameter_table(model).total(model.active)
    for name, parameter in model.model.named_parameters():
        if architecture == "stablelm_norms" and name not in own:
            assert "norms." in name  # of a removed head or KV group
            continue
        cut = cuts.get(id(parameter))
        data, grad = (t if cut is None else cut.of(t) for t in (parameter.data, parameter.grad))
        assert torch.equal(own[name].data, data)
        assert own[name].data_ptr() != parameter.data_ptr()
        assert torch.allclose(own[name].grad, grad, rtol=1e-5, atol=1e-12)


@ARCHITECTURES
@pytest.mark.parametrize("layer", [0, 1])
def test_a_layer_without_heads_computes_and_caches_nothing(architecture, layer):
    model = masked(architecture, 0xFFF0 if layer == 0 else 0xF0FF, mlp_blocks=0)
    compacted = model.compact()
    cache = DynamicCache()
    wanted = model(IDS).logits
    assert_close(step_by_step(compacted, IDS, cache), wanted)
    assert cache.get_seq_length() == 12
    assert cache.is_initialized
    assert [entry.keys is None for entry in cache.layers] == [layer == 0, layer == 1][: len(cache.layers)]
    beams = {**GREEDY, "num_beams": 3, "max_new_tokens": 4}
    assert torch.equal(compacted.generate(IDS, **beams), model.generate(IDS, **beams))
    if architecture == "falcon_alibi":
        return  # a stock model with these biases runs with no static cache either
    static = {**GREEDY, "cache_implementation": "static", "max_new_tokens": 4, "disable_compile": True}
    assert torch.equal(compacted.generate(IDS, **static), model.generate(IDS, **GREEDY, max_new_tokens=4))


@but(*HEADS_ONLY)
def test_repairs_and_growing_gates_are_carried_over(architecture):
    model = masked(architecture, 0b11100110_11110111)
    chance = torch.Generator().manual_seed(0)
    model.grow(~model.active & (torch.arange(8) < 4), initial_scale=0.3, warmup_steps=10, generator=chance)
    model.prune(torch.tensor([[True] + [False] * 7, [False] * 5 + [True] + [False] * 2]))
    for site in (0, 3):
        weight = model.sites[site].output_weight()
        model.apply_repair(site, weight + 0.1 * torch.randn(weight.shape), 0.1 * torch.randn(weight.shape[1]))
    with torch.no_grad():
        assert_close(model.compact()(IDS).logits, model(IDS).logits)
        model.apply_repair(0, None, torch.ones(64))
        model.prune(torch.tensor([[True] * 4 + [False] * 4, [False] * 8]))
        model.apply_repair(0, None, torch.randn(64))  # a layer whose attention is a bias
        model.prune(torch.tensor([[False] * 8, [False] * 4 + [True] * 4]))
        model.apply_repair(3, None, torch.randn(64))  # a layer whose MLP is one
        assert_close(model.compact()(IDS).logits, model(IDS).logits)


@torch.no_grad()
def test_gates_that_all_grow_are_applied_and_folded():
    model = PlasticModel(build("llama"))
    for layer in ([[True] * 4, [False] * 4], [[False] * 4, [True] * 4]):
        mask = torch.tensor(layer)
        model.prune(mask)
        model.grow(mask, initial_scale=0.5, warmup_steps=10, generator=torch.Generator().manual_seed(0))
    halved = build("llama")
    halved.load_state_dict(raw_state(model.model))
    for each in halved.model.layers:
        each.self_attn.o_proj.weight.mul_(0.5)
    wanted = halved(IDS).logits
    assert_close(model(IDS).logits, wanted)
    assert_close(model.compact()(IDS).logits, wanted)
    for each in halved.model.layers:
        each.self_attn.o_proj.weight.mul_(2)
    with model.grown_gates():
        assert_close(model(IDS).logits, halved(IDS).logits)
    assert_close(model(IDS).logits, wanted)


@ARCHITECTURES
def test_saved_and_loaded_by_the_auto_class(architecture, tmp_path):
    model = masked(architecture, 0b00011011_01100000)
    model.apply_repair(len(model.sites) // 2, None, torch.randn(64))
    compacted = model.compact()
    compacted.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["kept_heads"] == [row[:4].nonzero().flatten().tolist() for row in model.active]
    assert not list(tmp_path.glob("*.bin"))
    assert not list(tmp_path.glob("*.pt"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is type(compacted)
    assert is_compact(loaded)
    with torch.no_grad():
        assert_close(loaded.eval()(IDS).logits, compacted(IDS).logits)
    again = type(loaded)(loaded.config)  # and from the configuration alone, with random weights
    assert {n: v.shape for n, v in again.state_dict().items()} == {n: v.shape for n, v in loaded.state_dict().items()}


def test_a_fresh_process_loads_it(tmp_path):
    wanted = {}
    for architecture in ("llama", "gpt2"):
        compacted = masked(architecture, 0b01101011_00110000).compact()
        compacted.save_pretrained(tmp_path / architecture)
        with torch.no_grad():
            wanted[architecture] = compacted(IDS).logits
    program = (
        "import sys, torch, plasticity_env; from transformers import AutoModelForCausalLM\n"
        "ids, wanted = torch.load(sys.argv[2])\n"
        "for name in wanted:\n"
        "    model = AutoModelForCausalLM.from_pretrained(f'{sys.argv[1]}/{name}').eval()\n"
        "    torch.testing.assert_close(model(ids).logits, wanted[name])\n"
    )
    torch.save((IDS, wanted), tmp_path / "wanted.pt")
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), str(tmp_path / "wanted.pt")],
        env={**os.environ, "PYTHONPATH": str(root), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_the_masked_model_is_left_alone_or_gives_its_weights_up():
    model = masked("llama", 0b01110111_01111001)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    compacted = model.compact()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.revive(~model.active)
    assert_close(model(IDS).logits, PlasticModel(build("llama"))(IDS).logits)

    model = masked("llama", 0b01110111_01111001)
    dense = list(model.parameters())
    embedding = model.model.model.embed_tokens.weight.data_ptr()
    smaller = model.compact(inplace=True)
    assert smaller.model.embed_tokens.weight.data_ptr() == embedding  # moved, not copied
    assert not any(parameter.numel() for parameter in dense)
    with torch.no_grad():
        assert_close(smaller(IDS).logits, compacted(IDS).logits)
        assert_close(model(IDS).logits, compacted(IDS).logits)
    with pytest.raises(InputError, match="compacted in place"):
        model.revive(torch.ones(2, 8, dtype=torch.bool))


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
@pytest.mark.parametrize(
    ("architecture", "inplace"), [*((name, False) for name in sorted(CONFIGS)), ("gpt2", True), ("llama", True)]
)
def test_training_goes_on_as_if_nothing_had_been_removed(architecture, inplace, kind):
    def step(model, optimizer):
        optimizer.zero_grad()
        model(IDS, labels=IDS).loss.backward()
        if isinstance(model, PlasticModel):
            with model.frozen_heads(optimizer):
                optimizer.step()
        else:
            optimizer.step()

    arms = []
    for _ in range(2):
        model = masked(architecture, dtype=torch.float64)
        extra = {"momentum": 0.9} if kind is torch.optim.SGD else {"amsgrad": True}
        optimizer = kind(model.parameters(), lr=0.01, weight_decay=0.1, **extra)
        step(model, optimizer)
        model.prune(torch.tensor([[True, True, True, True, True, False, False, False], [False, True] + [False] * 6]))
        arms.append((model, optimizer))
    (model, optimizer), (other, carried) = arms
    cuts = model_cuts(model)
    compacted = other.compact(inplace, carried)
    assert sum(len(group["params"]) for group in carried.param_groups) == len(list(compacted.parameters()))
    for _ in range(3):
        step(model, optimizer)
        step(compacted, carried)
    own = dict(compacted.named_parameters())
    for name, parameter in model.model.named_parameters():
        cut = cuts.get(id(parameter))
        if name in own and own[name].grad is not None:  # OPT keeps the norm of a removed attention
            assert torch.allclose(own[name], parameter if cut is None else cut.of(parameter.data), rtol=1e-6, atol=1e-9)


def test_moments_of_a_growing_head_belong_to_its_folded_weights():
    model = masked("llama", 0xFFFE, mlp_blocks=0)
    model.grow(~model.active, initial_scale=0.5, warmup_steps=10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, amsgrad=True)
    model(IDS, labels=IDS).loss.backward()
    optimizer.step()
    compacted = model.compact(optimizer=optimizer)
    fresh = torch.optim.AdamW(compacted.parameters(), lr=0.0, amsgrad=True)
    compacted(IDS, labels=IDS).loss.backward()
    fresh.step()
    for parameter in compacted.parameters():
        for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
            assert_close(optimizer.state[parameter][name], fresh.state[parameter][name], 1e-4)


@but("gpt_oss", "falcon_alibi")  # whose sinks and biases are a few features more, which are no FLOPs of the model
@pytest.mark.parametrize("bits", [0xFFFF, 0b01100110_01110001, 0b00010111_11110000])
def test_flops_are_within_one_percent_of_torchs_counter(architecture, bits):
    model = masked(architecture, bits)
    compacted = model.compact()
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        compacted(torch.zeros(1, 32, dtype=torch.long))
    counted = counter.get_total_flops() / 32
    assert flops(compacted, 32) == pytest.approx(counted, rel=0.01)
    assert flops(model, 32) == pytest.approx(counted, rel=0.01)


@ARCHITECTURES
def test_kv_cache_bytes_are_what_a_cache_holds(architecture):
    model = masked(architecture, 0b11110110_11110001)
    dense = build(architecture)
    for each in (
        model.compact(),
        PlasticModel(dense) if architecture == "falcon" else dense,
    ):  # stock Falcon repeats keys
        cache = DynamicCache()
        each(IDS[:1], past_key_values=cache, use_cache=True)
        held = sum(tensor.numel() * tensor.itemsize for entry in cache.layers for tensor in (entry.keys, entry.values))
        assert kv_cache_bytes(each) == held / 12


def test_bad_input_changes_nothing(tmp_path):
    with pytest.raises(InputError, match="head"):
        masked("llama", 0xF0F0)  # without a head there is nothing to compact
    model = masked("llama", 0xF7F7)
    optimizer = torch.optim.Adafactor(model.parameters())
    model(IDS, labels=IDS).loss.backward()
    optimizer.step()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError, match="cannot be cut"):
        model.compact(inplace=True, optimizer=optimizer)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    compacted = model.compact()
    with pytest.raises(InputError, match="KV groups of one size"):
        compacted.set_attn_implementation("eager")
    with pytest.raises(InputError, match="cannot be wrapped"):
        PlasticModel(compacted)
    compacted.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="KV groups of one size"):
        AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    even = masked("llama", 0xF3F5).compact()
    with torch.no_grad():
        wanted = even(IDS).logits
        even.set_attn_implementation("eager")
        assert_close(even(IDS).logits, wanted)
