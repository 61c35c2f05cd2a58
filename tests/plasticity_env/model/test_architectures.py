"""Each further architecture in short, against its own stock model, and what it has of its own."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import transformers as tf
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.falcon.modeling_falcon import FalconAttention

from plasticity_env import InputError, Layout, PlasticModel, attention_maps, flops, kv_cache_bytes, mean_loss, measure
from plasticity_env.model.layout_table import LAYOUTS, REFUSED, register_layout
from plasticity_env.model.layouts import attention_blocks
from plasticity_env.model.prefix_reuse import PrefixCache
from plasticity_env.model.stock.stock_configs import sayable_counts
from plasticity_env.model.stock.stock_files import check_export, dense_sizes, prepare_export, write_export
from plasticity_env.repair.sequential import repair_in_order
from tests.conftest import BASE, CONFIGS, EXPERTS, HEADS_ONLY, MORE, OTHERS, build, same, stock_attentions

PAGE = Path(__file__).parents[3] / "docs" / "architectures.md"
NEW = pytest.mark.parametrize("name", sorted(OTHERS))
UNEVEN = torch.tensor([[True, False, False, True], [False, True, False, False]])  # of four heads in two groups


def pruned(name, mask=UNEVEN):
    model = PlasticModel(build(name))
    model.prune(mask)
    return model


def zeroed(name, mask=UNEVEN):
    """The stock model with the output rows of these heads set to zero."""
    model = build(name)
    for block in attention_blocks(model):
        for head in mask[block.layer].nonzero().flatten().tolist():
            block.output_slice(head).data.zero_()
    return model


def close(found, wanted, tolerance=1e-5):
    return float((found - wanted).abs().max()) <= tolerance * float(wanted.abs().max())


@NEW
def test_gates_and_removal_equal_the_stock_model(name, ids):
    stock = build(name)
    with torch.no_grad():
        dense, wanted = stock(ids).logits, zeroed(name)(ids).logits
        assert same(name, PlasticModel(stock)(ids).logits, dense)
        model = pruned(name)
        assert close(model(ids).logits, wanted)
        assert not close(wanted, dense, 1e-2)
        compacted = model.compact()
        assert sum(p.numel() for p in compacted.parameters()) < sum(p.numel() for p in model.parameters())
        assert close(compacted(ids).logits, wanted)
        cached = compacted(ids[:, :7], use_cache=True)
        assert close(compacted(ids[:, 7:], past_key_values=cached.past_key_values).logits, wanted[:, 7:])


@NEW
def test_slopes_are_those_of_autograd_on_the_stock_model(name, ids):
    model = build(name).requires_grad_(False)
    blocks = attention_blocks(model)
    gates = torch.ones(len(ids), len(blocks), blocks[0].heads, requires_grad=True)
    for block in blocks:

        def gate(module, args, block=block):
            cut = args[0].unflatten(-1, (block.heads, block.head_dim))  # (B, T, H, D)
            return (cut * gates[:, block.layer, None, :, None]).flatten(-2)

        block.output.register_forward_pre_hook(gate)
    logits = model(ids, use_cache=False).logits
    losses = (
        F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(len(ids), -1).mean(1)
    )
    (slopes,) = torch.autograd.grad(losses.sum(), [gates])
    found = measure(PlasticModel(build(name)), ids, obs=False)
    assert torch.allclose(found.sequence_loss, losses.detach(), rtol=1e-5)
    assert close(found.gate_gradient, slopes.mean(0), 1e-3)
    assert close(found.fisher, slopes.square().mean(0), 1e-3)


@NEW
def test_padding_counts_nowhere(name, ids):
    model = PlasticModel(build(name))
    plain, none, text = measure(model, ids), torch.zeros(len(ids), 5, dtype=torch.long), torch.ones_like(ids)
    for order in ((none, ids), (ids, none)):
        mask = torch.cat([text if part is ids else none for part in order], 1)
        found = measure(model, torch.cat(order, 1), attention_mask=mask)
        assert found.loss == pytest.approx(plain.loss, abs=1e-5)
        assert close(found.fisher, plain.fisher, 1e-3)
        assert torch.allclose(found.entropy, plain.entropy, atol=1e-5)


@NEW
def test_costs_are_those_that_torch_counts(name, ids):
    stock = build(name)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        stock(ids[:1])
    assert flops(stock, ids.shape[1]) == pytest.approx(counter.get_total_flops() / ids.shape[1])
    model = pruned(name)
    compacted = model.compact()
    assert flops(compacted, 64) == pytest.approx(flops(model, 64))
    assert kv_cache_bytes(compacted) == kv_cache_bytes(model)


def test_only_chosen_experts_cost(ids):
    torch.manual_seed(0)
    several = {**EXPERTS, "num_experts": 6, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 24}
    model = tf.AutoModelForCausalLM.from_config(tf.Qwen2MoeConfig(**several)).eval()
    model.set_experts_implementation("eager")
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model(ids[:1])
    assert flops(model, ids.shape[1]) == pytest.approx(counter.get_total_flops() / ids.shape[1])


@pytest.mark.parametrize("name", HEADS_ONLY)
def test_experts_are_no_units(name):
    with pytest.raises(InputError, match=r"mixture of experts.*prune its heads only"):
        PlasticModel(build(name), mlp_blocks=4)
    assert PlasticModel(build(name)).mlps == []


@pytest.mark.parametrize("name", ["gemma2", "phi3", "olmo2"])
def test_attention_dropout_is_the_stock_models(name, ids):
    config = OTHERS[name]()
    config.attention_dropout = 0.5
    logits = []
    for wrap in (False, True):
        torch.manual_seed(0)
        model = tf.AutoModelForCausalLM.from_config(config).train()
        model = PlasticModel(model) if wrap else model
        torch.manual_seed(1)
        with torch.no_grad():
            logits.append(model(ids, use_cache=False).logits)
            assert not close(model(ids, use_cache=False).logits, logits[-1], 1e-3)  # other positions are dropped now
    assert torch.equal(*logits)


def test_clipped_queries_keys_and_values(ids):
    torch.manual_seed(0)
    config = tf.OlmoConfig(**MORE, clip_qkv=0.1)
    model = PlasticModel(tf.AutoModelForCausalLM.from_config(config).eval())
    model.prune(UNEVEN)
    with torch.no_grad():
        assert close(model.compact()(ids).logits, model(ids).logits)


@pytest.mark.parametrize("name", ["gemma2", "gpt_oss"])
def test_maps_and_entropy_of_capped_and_sunk_attention(name, ids):
    wanted = stock_attentions(name, ids)  # (B, L, H, T, T)
    assert torch.allclose(attention_maps(build(name), ids), wanted, atol=1e-5)
    keys = [wanted, 1 - wanted.sum(-1, keepdim=True)] if name == "gpt_oss" else [wanted]  # what the sink takes
    entropy = torch.special.entr(torch.cat(keys, -1).clamp(min=0)).sum(-1)
    first = 0 if name == "gpt_oss" else 1  # query that sees more than one key
    found = measure(PlasticModel(build(name)), ids, obs=False).entropy
    assert torch.allclose(found, entropy[..., first:].mean((0, 3)), atol=1e-5)


def test_layers_that_return_tuples_are_skipped_and_run_alike(ids):
    torch.manual_seed(0)
    config = OTHERS["falcon"]()
    config.num_hidden_layers = 5
    model = PlasticModel(tf.AutoModelForCausalLM.from_config(config).eval())
    cache = PrefixCache(model, 1e9)
    mask = torch.zeros(5, 4, dtype=torch.bool)
    for head in (0, 2):
        mask[4, head] = True
        model.prune(mask)
        assert mean_loss(model, ids, prefix=cache, batch="text") == mean_loss(model, ids)
    assert cache.reused == 4
    repair_in_order(model, ids)
    assert model.repaired_sites == [8]


def test_a_scaled_residual_is_repaired_as_scaled_projections_are():
    """Granite multiplies what a projection writes: folded into the projection it is the same model, and so is its repair."""
    text = torch.randint(1, 128, (8, 32), generator=torch.Generator().manual_seed(3))
    model, folded = PlasticModel(build("granite")), PlasticModel(build("granite"))
    factor = model.config.residual_multiplier
    for layer, sites in zip(folded.model.model.layers, zip(folded.blocks, folded.mlps, strict=True), strict=True):
        layer.residual_multiplier = 1.0
        for site in sites:
            site.output.weight.data.mul_(factor)
            site.factor = 1.0
    for each in (model, folded):
        each.prune(UNEVEN)
        repair_in_order(each, text, mlp=True, pull=0.1)
    for ours, theirs in zip(model.sites, folded.sites, strict=True):
        assert close(ours.output_weight() * factor, theirs.output_weight(), 1e-4)


def test_falcon_is_left_with_its_own_attention(ids):
    model = build("falcon")
    with torch.no_grad():
        dense = model(ids).logits
    attention_maps(model, ids)
    assert all(type(block.module) is FalconAttention for block in attention_blocks(model))
    assert model.config._attn_implementation == "sdpa"
    with torch.no_grad():
        assert torch.equal(model(ids).logits, dense)
    plastic = pruned("falcon")
    with torch.no_grad():
        assert torch.equal(copy.deepcopy(plastic)(ids).logits, plastic(ids).logits)
    with pytest.raises(InputError, match="does not know which heads of a compacted falcon are left"):
        plastic.compact().set_attn_implementation("eager")


def test_a_norm_over_all_heads_sees_what_it_saw():
    """OLMo-2 keeps its query and key projections whole: they are no cost of a head, and go with a layer's last one."""
    model = pruned("olmo2")
    compacted = model.compact()
    attention = compacted.model.layers[0].self_attn
    assert attention.q_proj.weight.shape == (64, 64)
    assert attention.v_proj.weight.shape == (32, 64)
    assert attention.o_proj.weight.shape == (64, 32)
    before = flops(model, 8)
    model.prune(torch.tensor([[True, True, True, True], [False] * 4]))
    rows = 64 * (64 + 32 + 32) + 2 * 16 * 64  # queries, keys, values, what reads the two heads
    assert before - flops(model, 8) == 2 * rows + 2 * 2 * 2 * 8 * 16
    assert flops(model.compact(), 8) == flops(model, 8)
    other = model.blocks[0].query_slices(0)[0].data.clone()
    model.grow(~model.active, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.blocks[0].query_slices(0)[0].data, other)  # new rows would move the other heads


def test_sinks_and_norms_of_pruned_heads_come_back_as_they_were():
    for name in ("gpt_oss", "cohere"):
        model = pruned(name)
        (piece,) = model.blocks[0].own_parts(0, "head")
        before = piece.data.clone()
        piece.data.add_(1.0)
        model.revive(UNEVEN)
        assert torch.equal(piece.data, before)


def test_layers_that_differ_in_heads_are_refused():
    model = build("olmo")
    attention = model.model.layers[1].self_attn
    for projection in (attention.k_proj, attention.v_proj):
        projection.weight = torch.nn.Parameter(projection.weight.data[:16].clone())
    with pytest.raises(InputError, match=r"layers differ in \(heads, kv_heads, head_dim\)"):
        PlasticModel(model)


def test_an_unnamed_mixture_of_experts_has_heads_as_units(ids):
    """No MLP is asked for where only heads are units; a norm over all heads is said in the layout."""
    before = dict(LAYOUTS)
    layout = Layout("model.layers", "self_attn", "o_proj", "separate", ("q_proj", "k_proj", "v_proj"), whole_norm=True)
    try:
        register_layout("olmoe", layout)
        torch.manual_seed(0)
        config = tf.OlmoeConfig(**EXPERTS, num_experts=2)
        model = PlasticModel(tf.AutoModelForCausalLM.from_config(config).eval())
        dense = mean_loss(model, ids)
        model.prune(UNEVEN)
        assert mean_loss(model, ids) != dense
        with torch.no_grad():
            assert close(model.compact()(ids).logits, model(ids).logits)
    finally:
        LAYOUTS.clear()
        LAYOUTS.update(before)


QKV = ("q_proj", "k_proj", "v_proj")
BY_HAND = {
    "gptj": Layout("transformer.h", "attn", "out_proj", "separate", QKV, "mlp", ("fc_in",), "fc_out"),
    "bloom": Layout(
        *("transformer.h", "self_attention", "dense", "interleaved", ("query_key_value",)),
        *("mlp", ("dense_h_to_4h",), "dense_4h_to_h"),
    ),
    "mpt": Layout("transformer.blocks", "attn", "out_proj", "fused", ("Wqkv",), "ffn", ("up_proj",), "down_proj"),
}


class TestRefused:
    def model(self, name):
        torch.manual_seed(0)
        config = {
            "gptj": lambda: tf.GPTJConfig(vocab_size=97, n_embd=32, n_layer=2, n_head=4, rotary_dim=4, eos_token_id=0),
            "bloom": lambda: tf.BloomConfig(vocab_size=97, hidden_size=32, n_layer=2, n_head=4),
            "mpt": lambda: tf.MptConfig(vocab_size=97, d_model=32, n_layers=2, n_heads=4, max_seq_len=64),
        }[name]()
        return tf.AutoModelForCausalLM.from_config(config).eval()

    @pytest.mark.parametrize("name", sorted(REFUSED))
    def test_the_reason_is_given_also_where_a_layout_is_registered(self, name):
        with pytest.raises(InputError, match=rf"'{name}' is not supported: its attention does not go through"):
            PlasticModel(self.model(name))
        before = dict(LAYOUTS)
        try:
            register_layout(name, BY_HAND[name])
            with pytest.raises(
                InputError, match=r"computes its attention itself, not through transformers' attention interface"
            ):
                PlasticModel(self.model(name))
        finally:
            LAYOUTS.clear()
            LAYOUTS.update(before)


@pytest.mark.slow
@NEW
def test_exports_load_as_stock_models(name, tmp_path):
    """Slow: two exports of every architecture, written, loaded and compared."""
    for form, mask in (("masked", UNEVEN), ("uniform", torch.tensor([[False, False, True, True]] * 2))):
        model = pruned(name, mask)
        if form == "uniform" and sayable_counts(model.config, dense_sizes(model)) == [4]:
            with pytest.raises(InputError, match=r"2 heads per layer cannot be expressed"):
                prepare_export(model, form)
            continue
        (tmp_path / form).mkdir()
        write_export(prepare_export(model, form), tmp_path / form)
        assert check_export(tmp_path / form, model) < 1e-5


@pytest.mark.parametrize("split", ["refused", *sorted(LAYOUTS)])
def test_the_page_says_what_holds(split):
    text = PAGE.read_text(encoding="utf-8")
    if split == "refused":
        assert set(re.findall(r"^\| `(\w+)`", text.split("## Refused")[1], re.M)) == set(REFUSED)
        assert set(re.findall(r"^\| `(\w+)`", text.split("## Refused")[0], re.M)) == set(LAYOUTS)
        assert all(reason in text for reason in REFUSED.values())
        return
    (row,) = re.findall(rf"^\| `{split}` \|.*$", text.split("## Refused")[0], re.M)
    said = [cell.strip() for cell in row.strip("|").split("|")][2:7]
    layout = LAYOUTS[split]
    model = PlasticModel(build("gemma3" if split == "gemma3_text" else split))
    counts = sayable_counts(model.config, dense_sizes(model))
    uniform = "masked" if counts == [model.heads] else "masked, uniform"
    removal = "yes; queries and keys stay whole" if layout.whole_norm else "yes"
    assert said == ["yes", "yes", removal, "yes" if layout.mlp_inputs else "no", uniform]


def test_every_architecture_is_tested():
    tested = {build_config().model_type for build_config in [*CONFIGS.values(), *OTHERS.values()]}
    assert tested == set(LAYOUTS)
    assert BASE["num_attention_heads"] == 4
