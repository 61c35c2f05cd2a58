"""U-Net skips: nothing at first, then a gated sum; they learn, generate and count."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

from plasticity_env import InputError, PlasticModel, flops
from plasticity_env.growth import UNetSkip
from plasticity_env.model.checkpoints import save_plastic
from plasticity_env.model.layouts import transformer_layers
from plasticity_env.repair.whole import repair_model
from tests.conftest import CONFIGS, OTHERS, build

ARCHITECTURES = pytest.mark.parametrize(
    "architecture", [*sorted(CONFIGS), *(pytest.param(name, marks=pytest.mark.slow) for name in ("falcon", "gemma2"))]
)


def deep(architecture, layers=4):
    """A random model with more layers than those of conftest."""
    dense = {**CONFIGS, **OTHERS}[architecture]()
    values = dense.to_dict()
    values.pop("layer_types", None)
    name = "n_layer" if "n_layer" in values else "num_hidden_layers"
    torch.manual_seed(0)
    config = type(dense)(**{**values, name: layers})
    return PlasticModel(AutoModelForCausalLM.from_config(config).eval())


@torch.no_grad()
def logits(model, ids):
    return model(ids).logits


@ARCHITECTURES
def test_a_fresh_skip_is_the_identity(architecture, ids):
    model = deep(architecture)
    before = logits(model, ids)
    skip = UNetSkip(model)
    assert skip.pairs == [(0, 3)]  # 1 and 2 are neighbours
    assert torch.equal(logits(model, ids), before)
    with torch.no_grad():
        skip.gates.fill_(0.5)
    assert (logits(model, ids) - before).abs().max() > 1e-2 * before.abs().max()
    skip.remove()
    assert torch.equal(logits(model, ids), before)


@pytest.mark.parametrize("layers", [3, 5, 6])
def test_the_input_of_the_mirror_is_its_own_plus_the_gated_state(layers, ids):
    model = deep("llama", layers)
    skip = UNetSkip(model)
    assert skip.pairs == {3: [(0, 2)], 5: [(0, 4), (1, 3)], 6: [(0, 5), (1, 4)]}[layers]
    with torch.no_grad():
        skip.gates.copy_(torch.arange(1, len(skip.pairs) + 1) / 10)
    blocks, outputs, seen = transformer_layers(model.model), {}, {}
    for index, block in enumerate(blocks):
        block.register_forward_hook(lambda m, a, out, index=index: outputs.__setitem__(index, out))
        block.input_layernorm.register_forward_pre_hook(lambda m, a, index=index: seen.__setitem__(index, a[0]))
    logits(model, ids)
    skipped = {second: (first, gate) for (first, second), gate in zip(skip.pairs, skip.gates.tolist(), strict=True)}
    for index in range(1, layers):
        expected = outputs[index - 1]
        if index in skipped:
            first, gate = skipped[index]
            expected = expected + gate * outputs[first]
        assert torch.allclose(seen[index], expected, atol=1e-6)


def test_the_gates_learn_and_are_saved_apart(ids, tmp_path):
    model = deep("gpt2")
    stock = set(model.state_dict())
    skip = UNetSkip(model)
    optimizer = torch.optim.SGD(skip.parameters(), lr=0.1)
    before = float(model(ids, labels=ids).loss.detach())
    for _ in range(5):
        optimizer.zero_grad()
        model(ids, labels=ids).loss.backward()
        optimizer.step()
    assert float(model(ids, labels=ids).loss.detach()) < before
    assert set(model.state_dict()) == stock
    torch.save(skip.state_dict(), tmp_path / "skip.pt")
    other = deep("gpt2")
    again = UNetSkip(other)
    again.load_state_dict(torch.load(tmp_path / "skip.pt", weights_only=True))
    assert torch.equal(logits(other, ids), logits(model, ids))


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "opt"])
def test_generation_with_a_cache_equals_generation_without(architecture, ids):
    model = deep(architecture)
    skip = UNetSkip(model)
    with torch.no_grad():
        skip.gates.fill_(0.7)
    settings = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    cached = model.generate(ids, use_cache=True, **settings)
    assert torch.equal(cached, model.generate(ids, use_cache=False, **settings))
    with torch.no_grad():
        whole = model(cached).logits[:, -1]
        cache = model(cached[:, :-1], use_cache=True).past_key_values
        assert torch.allclose(model(cached[:, -1:], past_key_values=cache).logits[:, -1], whole, atol=1e-4)


def test_a_copy_of_the_model_has_skips_of_its_own(ids):
    model = deep("gpt2")
    skip = UNetSkip(model)
    with torch.no_grad():
        skip.gates.fill_(0.5)
    twin = copy.deepcopy(model)
    before = logits(twin, ids)
    assert torch.equal(before, logits(model, ids))
    with torch.no_grad():
        skip.gates.zero_()
    assert torch.equal(logits(twin, ids), before)


def test_a_skip_costs_a_multiply_and_an_add_an_element():
    assert UNetSkip(deep("llama")).flops == 2 * 64
    model = deep("llama", 6)
    without = flops(model, 16)
    skip = UNetSkip(model)
    assert flops(model, 16) - without == skip.flops == 2 * 2 * 64
    with pytest.raises(InputError, match=r"call skip.remove\(\) first"):
        model.compact()
    skip.remove()
    skip.remove()
    assert flops(model, 16) == without
    assert not list(skip.children())  # the model is no part of the skip


def test_a_skip_needs_two_ends():
    with pytest.raises(InputError, match="at least 3 layers, this model has 2"):
        UNetSkip(PlasticModel(build("gpt2")))


def test_gradient_checkpointing_changes_no_gradient(ids):
    model = deep("llama")
    skip = UNetSkip(model)
    with torch.no_grad():
        skip.gates.fill_(0.3)
    model.train()

    def gradients():
        model.zero_grad()
        skip.zero_grad()
        model(ids, labels=ids, use_cache=False).loss.backward()
        return [parameter.grad.clone() for parameter in (*model.parameters(), *skip.parameters())]

    plain = gradients()
    model.model.activation_checkpointing_enable()
    for mine, theirs in zip(gradients(), plain, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)


def test_half_a_forward_pass_is_refused_in_words(ids):
    model = deep("llama")
    UNetSkip(model)
    with pytest.raises(InputError, match="layer 3 ran without layer 0"):
        transformer_layers(model.model)[3](torch.zeros(1, 4, 64))


def test_what_has_no_place_for_a_skip_says_so(ids, tmp_path):
    model = deep("gpt2")
    skip = UNetSkip(model)
    mask = torch.zeros(model.shape, dtype=torch.bool)
    mask[0, 1] = True
    model.prune(mask)
    for use in (lambda: save_plastic(model, tmp_path / "it"), lambda: repair_model(model, "sequential", ids)):
        with pytest.raises(InputError, match=r"call skip\.remove\(\) first"):
            use()
    assert not (tmp_path / "it").exists()
    skip.remove()
    save_plastic(model, tmp_path / "it")
    repair_model(model, "sequential", ids)
