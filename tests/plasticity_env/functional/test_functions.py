"""The plain functions of the cycle agree with stock transformers, and leave a plain model as it was."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity_env import (
    InputError,
    PlasticModel,
    apply_pruning_mask,
    attention_maps,
    calculate_head_entropy,
    calculate_head_gradients,
    evaluate_model,
    generate_pruning_mask,
    measure,
)
from plasticity_env.strategies.pruning import select_for_pruning
from tests.conftest import ALIBI, build, but, stock_attentions

MEASURES = {
    "entropy": calculate_head_entropy,
    "weight": calculate_head_gradients,
    "gate": lambda model, data: calculate_head_gradients(model, data, kind="gate"),
}


@but(*ALIBI)
def test_attention_maps_are_those_of_transformers(architecture, ids):
    maps = attention_maps(build(architecture), ids)
    assert torch.allclose(maps, stock_attentions(architecture, ids), atol=1e-5)


@but(*ALIBI)
def test_entropy_is_that_of_stock_attention(architecture, ids):
    weights = stock_attentions(architecture, ids)
    start = 1  # the first query sees one key
    if architecture == "gpt_oss":
        start, weights = 0, torch.cat([weights, (1 - weights.sum(-1, keepdim=True)).clamp(min=0)], -1)  # and a sink
    each = torch.special.entr(weights).sum(-1)[..., start:]  # (B, L, H, T - start)
    found = calculate_head_entropy(build(architecture), ids)
    assert torch.allclose(found, each.mean((0, 3)), atol=1e-5)
    normalized = calculate_head_entropy(build(architecture), ids, normalized=True)
    visible = (weights[..., start:, :] > 0).sum(-1).log()
    assert torch.allclose(normalized, (each / visible).mean((0, 3)), atol=1e-5)


def rows_of(model, architecture, layer, head):
    """Gradients of a head's own weights, sliced by hand."""
    width = slice(head * 16, (head + 1) * 16)
    if architecture == "gpt2":
        attention = model.transformer.h[layer].attn
        fused = (attention.c_attn.weight.grad.view(64, 3, 64), attention.c_attn.bias.grad.view(3, 64))
        return [fused[0][:, :, width], fused[1][:, width], attention.c_proj.weight.grad[width]]
    attention = model.model.layers[layer].self_attn  # llama: keys and values are shared by two heads
    return [attention.q_proj.weight.grad[width], attention.o_proj.weight.grad[:, width]]


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_weight_gradient_is_the_norm_over_the_heads_own_rows(architecture, ids):
    model = build(architecture)
    model(ids, labels=ids).loss.backward()
    by_hand = [
        [math.sqrt(sum(float(part.square().sum()) for part in rows_of(model, architecture, *at))) for at in row]
        for row in ([(layer, head) for head in range(4)] for layer in range(2))
    ]
    found = calculate_head_gradients(build(architecture), ids)
    assert found.tolist() == [pytest.approx(row, rel=1e-4) for row in by_hand]


def test_no_weight_gradient_reaches_a_pruned_head_but_its_gate_has_one(ids):
    model = PlasticModel(build("gpt2"))
    mask = torch.zeros(2, 4, dtype=torch.bool)
    mask[1, 2] = True
    model.prune(mask)
    assert torch.equal(calculate_head_gradients(model, ids) == 0, mask)
    gate = calculate_head_gradients(model, ids, kind="gate")
    assert torch.equal(gate, measure(model, ids, obs=False).gradient)
    assert bool((gate > 0).all())


@pytest.mark.parametrize("kind", sorted(MEASURES))
def test_a_plain_model_is_left_as_it_was(kind, ids):
    model = build("gpt2").train()
    model.transformer.h[0].eval()
    model.transformer.wte.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    logits = model.eval()(ids).logits
    for module, mode in zip(model.modules(), modes, strict=True):
        module.training = mode
    found = MEASURES[kind](model, ids)
    assert torch.allclose(found, MEASURES[kind](PlasticModel(build("gpt2")), ids))
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.config._attn_implementation == "sdpa"
    assert not any(hasattr(module, "plastic") for module in model.modules())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(model.eval()(ids).logits, logits)


def padded(ids, side):
    """Sequences of 12, 9 and 6 tokens as one padded batch."""
    mask = torch.ones_like(ids)
    for row, text in enumerate((12, 9, 6)):
        mask[row, slice(text, None) if side == "right" else slice(0, 12 - text)] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("kind", sorted(MEASURES))
def test_batches_and_padding_do_not_matter(kind, ids):
    model = PlasticModel(build("llama"))
    whole = MEASURES[kind](model, ids)
    parts = MEASURES[kind](model, [{"input_ids": ids[:1]}, ids[1:]])
    assert torch.allclose(parts, whole, rtol=1e-4)
    texts = [ids[:1], ids[1:2, :9], ids[2:, :6]]
    assert torch.allclose(MEASURES[kind](model, [padded(ids, "right")]), MEASURES[kind](model, texts), rtol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_evaluation_is_transformers_own_loss(architecture, ids, side):
    model, batch = build(architecture), padded(ids, side)
    labels = ids.masked_fill(batch["attention_mask"] == 0, -100)
    if side == "left":  # the first token of a text has no predecessor to be predicted from
        labels = labels.masked_fill(batch["attention_mask"].cumsum(1) == 1, -100)
    positions = {}
    if "position_ids" in inspect.signature(model.forward).parameters:  # counted from each text's first token
        positions["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        stock = float(model(**batch, **positions, labels=labels).loss)
    found = evaluate_model(model, [batch])
    assert found["loss"] == pytest.approx(stock, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(stock), rel=1e-4)
    assert (found["tokens"], found["sequences"]) == (11 + 8 + 5, 3)
    assert evaluate_model(PlasticModel(model), batch)["loss"] == pytest.approx(stock, rel=1e-5)


def test_evaluation_sees_what_was_pruned(ids):
    hf_model = build("gpt2")
    dense = evaluate_model(hf_model, ids)
    mask = generate_pruning_mask(hf_model, 0.5, data=ids)
    pruned = apply_pruning_mask(hf_model, mask.numpy())
    after = evaluate_model(pruned, ids, batch_size=2)
    assert (after["active_heads"], after["sparsity"]) == (4, 0.5)
    assert abs(after["loss"] - dense["loss"]) > 1e-4
    with pytest.raises(InputError, match="pass that one instead"):
        calculate_head_entropy(hf_model, ids)
    pruned.revive(mask)
    assert evaluate_model(hf_model, ids) == dense
    assert calculate_head_entropy(hf_model, ids).shape == (2, 4)  # a wrapper with open gates is in nobody's way
    pruned.prune(mask)
    assert evaluate_model(pruned, ids)["loss"] == pytest.approx(after["loss"])  # and it still works


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1, exclude_max=True), st.integers(0, 254), st.sampled_from(["low", "high"]), st.integers(0, 99))
def test_values_are_ranked_among_the_active_heads(level, gone, end, seed):
    values = torch.rand(2, 4, generator=torch.Generator().manual_seed(seed), requires_grad=True)
    active = torch.tensor([not gone >> i & 1 for i in range(8)]).view(2, 4)
    mask = generate_pruning_mask(values, level, active=active, prune=end)
    assert not bool((mask & ~active).any())
    after = active & ~mask
    assert int((~after).sum()) == max(int((~active).sum()), min(7, round(level * 8)))
    if mask.any():
        sign = 1 if end == "low" else -1
        assert bool(
            (sign * values[mask].max() if end == "low" else (sign * values[mask]).max()) <= (sign * values[after]).min()
        )


def test_a_model_is_ranked_by_a_strategy(ids):
    model = PlasticModel(build("gpt2"))
    for name in ("fisher", "combined", "entropy_low"):
        by_text = generate_pruning_mask(model, 0.4, name, data=[{"input_ids": ids}])
        assert torch.equal(by_text, select_for_pruning(model, 3, name, input_ids=ids))
    low = generate_pruning_mask(model, 0.4, "entropy", data=ids, prune_entropy="low")
    assert torch.equal(low, select_for_pruning(model, 3, "entropy_low", input_ids=ids))
    model.prune(low)
    assert int(generate_pruning_mask(model, 0.5, data=ids).sum()) == 1  # three are gone already
    assert not bool(generate_pruning_mask(model, 0.2, data=ids).any())
    again = [generate_pruning_mask(model, 0.6, "random", generator=torch.Generator().manual_seed(s)) for s in range(9)]
    assert len({tuple(mask.flatten().tolist()) for mask in again}) > 1


def test_mlp_blocks_are_left_alone(ids):
    model = PlasticModel(build("gpt2"), mlp_blocks=4)
    mask = generate_pruning_mask(model, 0.5, "magnitude", data=ids)
    assert mask.shape == (2, 8)
    assert int(mask[:, :4].sum()) == 4
    assert not bool(mask[:, 4:].any())
    apply_pruning_mask(model, mask[:, :4])
    assert torch.equal(model.active, ~mask)
    assert calculate_head_gradients(model, ids).shape == (2, 4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda model, ids: generate_pruning_mask(model, 1.0, data=ids), r"\[0, 1\), got 1.0"),
        (lambda model, ids: generate_pruning_mask(model, 0.5), "pass it calibration text"),
        (lambda model, ids: generate_pruning_mask(model, 0.5, "fischer", data=ids), "did you mean 'fisher'"),
        (
            lambda model, ids: generate_pruning_mask(model, 0.5, data=[padded(ids, "right")]),
            "full blocks of one length",
        ),
        (
            lambda model, ids: generate_pruning_mask(torch.ones(2, 4), 0.5, "fisher", prune="high"),
            "values rank the heads themselves",
        ),
        (lambda model, ids: generate_pruning_mask(torch.full((2, 4), torch.nan), 0.5), "not finite"),
        (lambda model, ids: generate_pruning_mask(torch.ones(8), 0.5), r"\(layers, heads\)"),
        (lambda model, ids: apply_pruning_mask(model, torch.ones(2, 4).bool()), "keep at least one head"),
        (lambda model, ids: apply_pruning_mask(model, torch.ones(2, 3).bool()), r"shape \(2, 4\)"),
        (lambda model, ids: calculate_head_gradients(model, ids, kind="wieght"), "did you mean 'weight'"),
        (lambda model, ids: calculate_head_entropy(model, []), "no batch to read"),
        (lambda model, ids: calculate_head_entropy(model, "text"), "data loader, got str"),
        (lambda model, ids: evaluate_model(model, ids, max_batches=0), "max_batches must be at least 1"),
        (
            lambda model, ids: evaluate_model(model, {"input_ids": ids, "attention_mask": ids * 0}),
            "all of it is padding",
        ),
    ],
)
def test_bad_input(call, words, ids):
    model = build("gpt2")
    with pytest.raises(InputError, match=words):
        call(model, ids)
    assert evaluate_model(model, ids)["loss"] == evaluate_model(build("gpt2"), ids)["loss"]


def test_a_broken_model_is_said(ids):
    model = build("gpt2")
    model.transformer.h[0].attn.c_proj.weight.data[0, 0] = torch.nan
    for call in (evaluate_model, *MEASURES.values()):
        with pytest.raises(InputError, match="diverged"):
            call(model, ids)
