"""A wrapped model generates as a stock model whose pruned heads' output rows are zero, in every way that stock models do."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from plasticity_env import PlasticModel
from plasticity_env.model.layouts import attention_blocks
from tests.conftest import build

ARCHITECTURES = [
    "llama",
    "gemma2",
    "gpt_oss",
    "falcon",
]  # stock attention, plain attention, one more key, a module of ours
PRUNED = torch.tensor([[True, False, False, True], [False, True, False, False]])
BASICS = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None, "max_new_tokens": 8}
WAYS = {
    "greedy": {},
    "without a cache": {"use_cache": False},
    "beams": {"num_beams": 3},
    "beams, sampled": {"num_beams": 2, "do_sample": True, "top_k": 5},
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
    "static cache": {"cache_implementation": "static", "disable_compile": True},
    "contrast of sequences": {"num_return_sequences": 2, "do_sample": True, "temperature": 0.7},
}
PROMPT = torch.randint(1, 128, (1, 12), generator=torch.Generator().manual_seed(1))


def pair(architecture):
    """A pruned model, and a stock model with zeros in the place of its pruned heads."""
    model, stock = PlasticModel(build(architecture)), build(architecture)
    model.prune(PRUNED)
    for block in attention_blocks(stock):
        for head in PRUNED[block.layer].nonzero().flatten().tolist():
            block.output_slice(head).data.zero_()
    return model, stock


def generated(model, **options):
    torch.manual_seed(0)
    return model.generate(PROMPT, **{**BASICS, **options})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("way", WAYS)
def test_it_generates_what_the_zeroed_stock_model_does(architecture, way):
    model, stock = pair(architecture)
    wanted = generated(stock, **WAYS[way])
    assert torch.equal(generated(model, **WAYS[way]), wanted)
    assert torch.equal(generated(model.compact(), **WAYS[way]), wanted)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_assistant_may_be_wrapped_or_not(architecture):
    model, stock = pair(architecture)
    wanted, assistant = generated(stock), PlasticModel(build(architecture))
    assistant.prune(~PRUNED)
    for helper in (assistant, stock, assistant.compact()):
        assert torch.equal(generated(model, assistant_model=helper), wanted)


def test_a_quantised_cache_of_transformers_own_kind():
    model, stock = pair("llama")
    options = {"cache_implementation": "quantized", "cache_config": {"backend": "fp8"}}
    assert torch.equal(generated(model, **options), generated(stock, **options))


@pytest.mark.parametrize(("backend", "package"), [("quanto", "optimum"), ("hqq", "hqq")])
def test_a_quantised_cache_of_a_package(backend, package):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"the {backend} cache needs the package {package}, which is not installed")
    model, stock = pair("llama")
    options = {"cache_implementation": "quantized", "cache_config": {"backend": backend, "nbits": 4}}
    assert torch.equal(generated(model, **options), generated(stock, **options))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_under_checkpointing_are_those_without(architecture):
    gradients = []
    for checkpointing in (False, True):
        model, _ = pair(architecture)
        model.train()
        runs = []
        model.blocks[0].module.register_forward_hook(lambda module, args, output, runs=runs: runs.append(1))
        if checkpointing:
            model.activation_checkpointing_enable()
        model(PROMPT, labels=PROMPT, use_cache=False).loss.backward()
        assert len(runs) == 1 + checkpointing  # computed again on the way back
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)
    assert model.model.is_activation_checkpointing
    model.activation_checkpointing_disable()
    assert not model.model.is_activation_checkpointing


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_checkpointing_by_its_older_name():
    model, _ = pair("llama")
    model.gradient_checkpointing_enable()
    assert model.model.is_gradient_checkpointing
    model.gradient_checkpointing_disable()
    assert not model.model.is_gradient_checkpointing
