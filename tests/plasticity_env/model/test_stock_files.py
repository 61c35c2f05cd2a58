"""Exported folders compute what the pruned model computes, in a process that knows nothing of this package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field

import pytest
import torch
import transformers as tf

from plasticity_env import InputError, PlasticModel, save_plastic
from plasticity_env.model.stock.stock_configs import check_count, sayable_counts
from plasticity_env.model.stock.stock_files import check_export, dense_sizes, prepare_export, write_export
from tests.conftest import CONFIGS, build

ARCHITECTURES = sorted(CONFIGS)
IDS = torch.randint(3, 128, (2, 10), generator=torch.Generator().manual_seed(1))
STRANGER = """
import json, sys, torch
from transformers import AutoModelForCausalLM
results = {}
for folder in sys.argv[2:]:
    expected = torch.load(folder + "/expected.pt", weights_only=True)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = model(expected["ids"]).logits
        tokens = model.generate(expected["ids"], attention_mask=torch.ones_like(expected["ids"]), do_sample=False,
                                max_new_tokens=8, min_new_tokens=8)
    results[folder] = {
        "difference": float((logits - expected["logits"]).abs().max()),
        "scale": float(expected["logits"].abs().max()),
        "same_tokens": tokens.tolist() == expected["tokens"].tolist(),
        "class": type(model).__name__,
        "config": type(model.config).__name__,
        "heads": model.config.num_attention_heads,
        "parameters": sum(p.numel() for p in model.parameters()),
        "zeros": sum(int((p == 0).sum()) for p in model.parameters()),
    }
assert not any(name.split(".")[0] in ("plasticity_env", "controllers", "agents") for name in sys.modules)
json.dump(results, open(sys.argv[1], "w"))
"""


@dataclass
class Case:
    """One folder to export."""

    name: str
    form: str
    model: PlasticModel
    found: dict = field(default_factory=dict)  # what the stranger saw, and the parameters of the dense model


def off(model, *units):
    mask = torch.zeros(model.shape, dtype=torch.bool)
    for layer, unit in units:
        mask[layer, unit] = True
    model.prune(mask)
    return model


def repaired(model, bias):
    """Change every site as a repair would: a new weight, or a bias."""
    generator = torch.Generator().manual_seed(5)
    for index, site in enumerate(model.sites):
        weight = site.output_weight()
        if bias and index % 2 == 0:
            model.apply_repair(index, None, torch.randn(weight.shape[1], generator=generator) * 0.3)
        elif not bias:
            model.apply_repair(index, weight + 0.1 * torch.randn(weight.shape, generator=generator), None)
    return model


def llama(**changes):
    """A Llama without KV sharing, of which 3 of 4 heads are no LlamaConfig."""
    torch.manual_seed(3)
    config = tf.LlamaConfig(
        **{"vocab_size": 128, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, **changes},
        intermediate_size=96,
    )
    model = tf.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "embed" not in name:
                parameter.mul_(4.0)
    return model


def all_cases():
    cases = []
    for a in ARCHITECTURES:
        masked = off(PlasticModel(build(a)), (0, 1), (1, 0), (1, 1), (1, 3))
        cases.append(Case(f"{a}-masked", "masked", repaired(masked, bias=False)))
        uniform = off(PlasticModel(build(a)), (0, 2), (0, 3), (1, 0), (1, 1))
        cases.append(Case(f"{a}-uniform", "uniform", repaired(uniform, bias=False)))
        units = off(PlasticModel(build(a), mlp_blocks=4), (0, 0), (1, 2), (0, 5), (1, 7))
        if units.kv_heads < units.heads:  # one head of each group stays
            off(units, (0, 3), (1, 1))
        else:
            off(units, (0, 2), (1, 3))
        cases.append(Case(f"{a}-units", "uniform", units))
    for a in ("gpt2", "llama", "mistral-open", "qwen2", "qwen3", "gemma3", "opt", "phi", "gpt_neox"):
        model = build(a) if a in CONFIGS else tf.AutoModelForCausalLM.from_config(open_mistral())
        cases.append(Case(f"{a}-bias", "masked", repaired(off(PlasticModel(model.eval()), (0, 1), (1, 2)), bias=True)))
    three = off(PlasticModel(llama()), (0, 1), (1, 3))
    cases.append(Case("llama-three", "uniform", three))
    growing = off(PlasticModel(build("qwen2")), (0, 1), (1, 0), (1, 2))
    mask = torch.zeros(2, 4, dtype=torch.bool)
    mask[1, 0] = True
    growing.grow(mask, initial_scale=0.4, warmup_steps=10, generator=torch.Generator().manual_seed(2))
    cases.append(Case("growing", "masked", growing))
    return cases


def open_mistral():
    config = CONFIGS["mistral"]()
    config.sliding_window = None
    return config


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    root = tmp_path_factory.mktemp("exports")
    found = {}
    for case in all_cases():
        folder = root / case.name
        folder.mkdir()
        with torch.no_grad():
            logits = case.model(IDS).logits
            mask = torch.ones_like(IDS)
            tokens = case.model.generate(IDS, attention_mask=mask, do_sample=False, max_new_tokens=8, min_new_tokens=8)
        write_export(prepare_export(case.model, case.form), folder)
        torch.save({"ids": IDS, "logits": logits, "tokens": tokens}, folder / "expected.pt")
        found[str(folder)] = case
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, str(root / "results.json"), *found],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    for folder, result in json.loads((root / "results.json").read_text()).items():
        case = found[folder]
        dense = sum(p.numel() for p in case.model.model.parameters())
        case.found = {**result, "dense": dense}
    return {case.name: case for case in found.values()}


NAMES = [
    *(f"{a}-{kind}" for a in ARCHITECTURES for kind in ("masked", "uniform", "units")),
    *(f"{a}-bias" for a in ("gpt2", "llama", "mistral-open", "qwen2", "qwen3", "gemma3", "opt", "phi", "gpt_neox")),
    "llama-three",
    "growing",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_stranger_computes_the_same(cases, name):
    result = cases[name].found
    assert result["difference"] <= 2e-5 * max(1.0, result["scale"])
    assert result["same_tokens"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_masked_keeps_the_stock_class_and_shapes(cases, architecture):
    case = cases[f"{architecture}-masked"]
    assert case.found["class"] == type(case.model.model).__name__
    assert case.found["parameters"] == case.found["dense"]
    width = case.model.blocks[0].head_dim * case.model.blocks[0].output_weight().shape[1]
    assert case.found["zeros"] >= 4 * width  # the rows of four heads


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_uniform_is_as_small_as_a_stock_configuration_can_say(cases, architecture):
    case = cases[f"{architecture}-uniform"]
    assert case.found["heads"] == 2
    pieces = sum(p.data.numel() for block in case.model.blocks for h in (0, 1) for p in block.query_slices(h))
    pieces += sum(block.output_slice(h).data.numel() for block in case.model.blocks for h in (0, 1))
    grouped = case.model.kv_heads < case.model.heads
    groups = (0,) if grouped else (0, 1)
    pieces += sum(p.data.numel() for block in case.model.blocks for g in groups for p in block.kv_slices(g))
    tied = architecture in ("gpt2", "opt", "gpt_neox")  # head width = hidden_size / heads there: padded
    assert case.found["dense"] - case.found["parameters"] == (0 if tied else pieces)


def test_a_llama_that_its_config_cannot_say_goes_out_as_a_mistral(cases):
    result = cases["llama-three"].found
    assert (result["class"], result["config"], result["heads"]) == ("MistralForCausalLM", "MistralConfig", 3)


def test_the_cost_of_a_bias_is_said(cases):
    notes = prepare_export(cases["llama-bias"].model, "masked").notes
    assert any("biases" in note and "of them zero" in note for note in notes)
    assert cases["llama-bias"].found["parameters"] > cases["llama-masked"].found["parameters"]
    assert not any("biases" in note for note in prepare_export(cases["gpt2-bias"].model, "masked").notes)


def test_a_bias_that_no_configuration_can_say_is_refused_with_a_way_out():
    windowed = repaired(off(PlasticModel(build("mistral")), (0, 1)), bias=True)
    with pytest.raises(InputError, match="least_squares"):
        prepare_export(windowed, "masked")
    three = repaired(off(PlasticModel(llama()), (0, 1), (1, 3)), bias=True)
    with pytest.raises(InputError, match="least_squares"):
        prepare_export(three, "uniform")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_counts_that_can_be_said_are_those_whose_models_build(architecture):
    model = PlasticModel(build(architecture))
    grouped = model.kv_heads < model.heads
    expected = [1, 2, 3, 4] if architecture == "phi" else [1, 2, 4]
    assert sayable_counts(model.config, dense_sizes(model)) == expected
    if architecture != "phi":
        with pytest.raises(
            InputError, match=r"3 heads per layer cannot be expressed in a .*Config of width 64"
        ) as error:
            check_count(model.config, dense_sizes(model), 3)
        assert "nearest are 2 or 4" in str(error.value)
        assert ("with 2 KV groups" in str(error.value)) == grouped


def test_a_mask_whose_count_cannot_be_said_names_the_nearest():
    model = off(PlasticModel(build("gpt2")), (0, 1), (1, 3))
    with pytest.raises(InputError, match=r"3 heads per layer cannot be expressed in a GPT2Config.*nearest are 2 or 4"):
        prepare_export(model, "uniform")


def test_a_ragged_mask_is_refused_and_the_model_untouched():
    model = off(PlasticModel(build("qwen2")), (0, 1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError, match="layers keep 3, 4 heads"):
        prepare_export(model, "uniform")
    prepare_export(model, "masked")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not bool(model.active[0, 1])


def test_a_model_that_was_compacted_in_place_has_nothing_left_to_write(tmp_path):
    model = off(PlasticModel(build("llama")), (0, 1))
    model.compact(inplace=True)
    for form in ("masked", "uniform", "compact"):
        with pytest.raises(InputError, match="compacted in place"):
            prepare_export(model, form)
    with pytest.raises(InputError, match="compacted in place"):
        save_plastic(model, tmp_path / "it")
    assert list(tmp_path.iterdir()) == []


def test_unknown_format():
    with pytest.raises(InputError, match="did you mean 'masked'"):
        prepare_export(PlasticModel(build("gpt2")), "maskd")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files(tmp_path, dtype):
    model = off(PlasticModel(build("llama")), (0, 0), (0, 1), (1, 2), (1, 3))
    write_export(prepare_export(model, "uniform", dtype), tmp_path)
    assert tf.AutoModelForCausalLM.from_pretrained(tmp_path).dtype == dtype
    assert 0 < check_export(tmp_path, model) < 0.1


def test_a_folder_that_computes_something_else_is_found_out(tmp_path):
    model = off(PlasticModel(build("llama")), (0, 0))
    write_export(prepare_export(model, "masked"), tmp_path)
    model.revive(~model.active)
    with pytest.raises(InputError, match="differ from the model's"):
        check_export(tmp_path, model)
