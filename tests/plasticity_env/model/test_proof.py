"""Wrapping and removal prove themselves: what gated attention does not compute is refused, and nothing is left behind."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers as tf
from torch import nn

from plasticity_env import InputError, PlasticModel, load_model, mean_loss
from plasticity_env.functional.functions import calculate_head_entropy
from plasticity_env.model.layout_table import LAYOUTS, Layout, register_layout
from plasticity_env.model.layouts import attention_blocks
from tests.conftest import build

QKV = ("q_proj", "k_proj", "v_proj")
LLAMA_LIKE = Layout("model.layers", "self_attn", "o_proj", "separate", QKV)
TINY = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(autouse=True)
def own_layouts(monkeypatch):
    """Layouts that a test registers are gone afterwards."""
    before = dict(LAYOUTS)
    yield
    LAYOUTS.clear()
    LAYOUTS.update(before)


def random_model(config):
    torch.manual_seed(0)
    return tf.AutoModelForCausalLM.from_config(config).eval()


def bloom():
    fused = ("interleaved", ("query_key_value",))
    mlp = ("mlp", ("dense_h_to_4h",), "dense_4h_to_h")
    register_layout("bloom", Layout("transformer.h", "self_attention", "dense", *fused, *mlp))
    return random_model(tf.BloomConfig(vocab_size=97, hidden_size=32, n_layer=2, n_head=4))


def unknown_argument():
    """A Llama whose attention is handed something that no stock model hands over."""
    model = build("llama")
    for layer in model.model.layers:
        layer.self_attn.register_forward_pre_hook(
            lambda module, args, kwargs: (args, {**kwargs, "temperatures": torch.ones(4)}), with_kwargs=True
        )
    return model


def another_result():
    """A Llama whose attention does something to its output that ours does not."""
    model = build("llama")
    for layer in model.model.layers:
        layer.self_attn.register_forward_hook(
            lambda module, args, output: (
                output[0] * (1.0 if module.config._attn_implementation == "plastic" else 1.5),
                *output[1:],
            )
        )
    return model


def tuples():
    """A Llama whose blocks return tuples, which its layout does not say."""
    model = build("llama")
    model.model.norm.register_forward_pre_hook(lambda module, args: args[0][0])
    model.model.layers[1].register_forward_pre_hook(lambda module, args: args[0][0])
    for layer in model.model.layers:
        layer.register_forward_hook(lambda module, args, output: (output, None))
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (bloom, r"BloomForCausalLM computes its attention itself"),
        (
            unknown_argument,
            r"attention of LlamaForCausalLM is handed 'temperatures', which the gated attention does not",
        ),
        (another_result, r"LlamaForCausalLM with all gates open differs from the stock model"),
        (tuples, r"a LlamaDecoderLayer returns a tuple: register the layout with returns_tuple=True"),
    ],
)
def test_what_gated_attention_does_not_compute_is_refused(make, message):
    model = make()
    ids = torch.randint(0, 97, (2, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        stock = model(input_ids=ids).logits
    implementation = model.config._attn_implementation
    with pytest.raises(InputError, match=message):
        PlasticModel(model)
    assert model.config._attn_implementation == implementation
    assert not any(hasattr(module, "plastic") for module in model.modules())
    assert "save_pretrained" not in vars(model)
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, stock)  # left as it was


@pytest.mark.parametrize(("name", "groups"), [("falcon", 2), ("falcon_multi_query", 1), ("falcon_alibi", 4)])
def test_grouped_fused_projections_are_counted_right(name, groups):
    assert attention_blocks(build(name))[0].kv_heads == groups


@pytest.mark.parametrize("groups", [2, 4])
def test_a_fused_gate_and_up_projection_is_cut_on_both_sides(groups):
    config = tf.Phi3Config(**TINY, intermediate_size=48, num_key_value_heads=groups, pad_token_id=0, eos_token_id=0)
    model = PlasticModel(random_model(config), mlp_blocks=4)
    assert model.kv_heads == groups
    ids = torch.randint(0, 97, (2, 9), generator=torch.Generator().manual_seed(1))
    dense = mean_loss(model, ids)
    mask = torch.zeros(model.shape, dtype=torch.bool)
    mask[0, 1] = mask[1, 4 + 2] = True
    model.prune(mask)
    pruned = mean_loss(model, ids)
    assert abs(pruned - dense) > 1e-6
    for layer, unit in mask.nonzero().tolist():  # the pieces that the layout names are what the unit computes with
        for piece in model.pieces(layer, unit, "unit"):
            piece.data.normal_()
    assert mean_loss(model, ids) == pytest.approx(pruned, abs=1e-5)
    model.revive(mask)
    assert mean_loss(model, ids) == pytest.approx(dense, abs=1e-6)


def test_a_norm_over_all_heads_is_masked_and_not_compacted():
    """Where the layout does not say so; with ``whole_norm`` it is compacted, see test_architectures.py."""
    register_layout("olmoe", LLAMA_LIKE)
    config = tf.OlmoeConfig(**TINY, intermediate_size=64, num_experts=2, num_experts_per_tok=2, eos_token_id=0)
    model = PlasticModel(random_model(config))
    mask = torch.zeros(model.shape, dtype=torch.bool)
    mask[0, 1] = True
    model.prune(mask)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError, match=r"does not compute what the masked model computes .*norm over all heads"):
        model.compact()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not bool(model.active[0, 1])


def test_layers_without_values_are_refused():
    model = build("llama")
    model.model.layers[1].to("meta")
    with pytest.raises(InputError, match=r"hold no values here .*offload.*load it whole"):
        PlasticModel(model)


def test_packed_weights_are_refused_by_name():
    model = build("llama")
    projection = model.model.layers[0].self_attn.q_proj
    packed = nn.Parameter(projection.weight.data.to(torch.int8), requires_grad=False)
    projection.weight = packed
    with pytest.raises(InputError, match=r"weight of a Linear is not a plain matrix of floating-point numbers .int8"):
        PlasticModel(model)


def test_an_adapter_is_not_compacted_away():
    model = PlasticModel(build("llama"))
    inner = model.blocks[0].module.q_proj

    class Adapter(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base_layer = base

        weight = property(lambda self: self.base_layer.weight)
        bias = property(lambda self: self.base_layer.bias)

        def forward(self, hidden):
            return self.base_layer(hidden) * 1.5

    model.blocks[0].module.q_proj = Adapter(inner)
    with pytest.raises(InputError, match=r"merge adapters into the weights"):
        model.compact()


def test_the_proof_can_be_turned_off_and_looks_at_a_model_leave_no_trace():
    assert PlasticModel(another_result(), prove=False).shape == (2, 4)
    model = build("qwen3")
    hooks = {name: len(module._forward_pre_hooks) for name, module in model.named_modules()}
    calculate_head_entropy(model, torch.randint(0, 128, (1, 8)))
    assert hooks == {name: len(module._forward_pre_hooks) for name, module in model.named_modules()}
    assert model.config._attn_implementation == "sdpa"
    assert "save_pretrained" not in vars(model)


@pytest.mark.parametrize("mode", ["inference_mode", "no_grad", "training"])
def test_wrapping_does_not_depend_on_the_callers_mode(mode):
    model = build("gpt2")
    if mode == "training":
        model.train()
    context = {"inference_mode": torch.inference_mode, "no_grad": torch.no_grad}.get(mode, torch.enable_grad)
    with context():
        plastic = PlasticModel(model)
    assert plastic.training == (mode == "training")
    assert model.training == (mode == "training")


class TestGuards:
    @pytest.fixture
    def pruned(self, tmp_path):
        loaded = load_model("bard-gpt2-4x4")
        ids = torch.randint(3, 1000, (2, 24), generator=torch.Generator().manual_seed(0))
        dense = mean_loss(loaded.model, ids)
        mask = torch.zeros(loaded.model.shape, dtype=torch.bool)
        mask[:, :3] = True
        loaded.model.prune(mask)
        return loaded.model, ids, dense, mean_loss(loaded.model, ids)

    def test_another_attention_does_not_bring_heads_back(self, pruned):
        model, ids, dense, loss = pruned
        assert abs(dense - loss) > 0.01
        model.model.set_attn_implementation("eager")
        with pytest.raises(InputError, match="pruned heads would come back"):
            mean_loss(model, ids)
        with pytest.raises(InputError, match="pruned heads would come back"):
            model.model(input_ids=ids)
        model.set_attn_implementation("plastic")
        assert mean_loss(model, ids) == pytest.approx(loss, abs=1e-6)
        with pytest.raises(InputError, match=r"attention 'eager' does not know the gates.*attention_maps"):
            model.set_attn_implementation("eager")

    def test_weights_on_disk_are_the_model_that_was_measured(self, pruned, tmp_path):
        model, ids, dense, loss = pruned
        model.model.save_pretrained(tmp_path / "saved")
        stock = PlasticModel(tf.AutoModelForCausalLM.from_pretrained(tmp_path / "saved").eval())
        assert mean_loss(stock, ids) == pytest.approx(loss, abs=1e-5)
        model.revive(~model.active)
        assert mean_loss(model, ids) == pytest.approx(dense, abs=1e-6)  # saving changed nothing

    def test_a_copy_saves_its_own_weights(self, pruned, tmp_path):
        model, ids, dense, _loss = pruned
        twin = copy.deepcopy(model)
        twin.revive(~twin.active)
        twin.model.save_pretrained(tmp_path / "twin")
        stock = PlasticModel(tf.AutoModelForCausalLM.from_pretrained(tmp_path / "twin").eval())
        assert mean_loss(stock, ids) == pytest.approx(dense, abs=1e-5)

    def test_a_repair_that_the_stock_configuration_cannot_say_is_refused(self, tmp_path):
        model = PlasticModel(build("llama"))
        model.apply_repair(0, None, torch.ones(64))
        with pytest.raises(InputError, match=r"o_proj.bias.*save_plastic or export it as compact"):
            model.model.save_pretrained(tmp_path / "saved")
