"""One attention function: open gates are the stock model, a closed gate is a head whose output rows are zero."""

from __future__ import annotations

import pytest
import torch

from plasticity_env import InputError, PlasticModel
from plasticity_env.model.layouts import attention_blocks
from tests.conftest import build, but, same


def test_open_gates_equal_the_stock_model_exactly(architecture, ids):
    model = build(architecture)
    with torch.no_grad():
        stock = model(ids).logits
        ours = PlasticModel(model)(ids).logits
    assert same(architecture, ours, stock)


def test_open_gates_train_exactly_like_the_stock_model(architecture, ids):
    gradients = []
    for wrap in (False, True):
        model = build(architecture)
        model = PlasticModel(model).model if wrap else model
        model(ids, labels=ids).loss.backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert all(same(architecture, ours, stock) for stock, ours in zip(*gradients, strict=True))


def test_a_closed_gate_equals_zeroed_output_rows(architecture, ids):
    plastic, zeroed = PlasticModel(build(architecture)), build(architecture)
    mask = torch.tensor([[True, False, False, True], [False, True, False, False]])
    plastic.prune(mask)
    for layer, block in enumerate(attention_blocks(zeroed)):
        for head in mask[layer].nonzero().flatten().tolist():
            block.output_slice(head).data.zero_()
    with torch.no_grad():
        difference = (plastic(ids).logits - zeroed(ids).logits).abs().max()
        moved = (plastic(ids).logits - PlasticModel(build(architecture))(ids).logits).abs().max()
    assert difference < 1e-5
    assert moved > 1e-3  # closing gates does something


def test_a_batch_may_carry_several_masks(architecture, ids):
    model = PlasticModel(build(architecture))
    gates = torch.ones(len(ids), 2, 4)
    gates[1, 0, 2] = 0
    gates[2, 1, :2] = 0
    with torch.no_grad():
        with model.using(gates):
            together = model(ids).logits
        for row in range(len(ids)):
            with model.using(gates[row]):
                assert torch.allclose(together[row], model(ids[row : row + 1]).logits[0], atol=1e-5)


@but("olmo2")  # where all heads' queries and keys are normalised together
def test_head_slices_are_where_the_head_lives(architecture, ids):
    """Zeroing a head's q, k, v rows and its output rows changes what that head computes and nothing of another."""
    model = build(architecture)
    blocks = attention_blocks(model)
    seen: dict[int, torch.Tensor] = {}
    for layer, block in enumerate(blocks):
        block.output.register_forward_pre_hook(lambda module, inputs, layer=layer: seen.__setitem__(layer, inputs[0]))
    with torch.no_grad():
        model(ids)
        before = {layer: value.clone() for layer, value in seen.items()}
        first = blocks[0]
        group = 0
        for piece in first.kv_slices(group):
            piece.data.zero_()
        model(ids)
    width = first.group_size * first.head_dim
    assert not torch.allclose(seen[0][..., :width], before[0][..., :width])  # values are gone
    assert torch.equal(seen[0][..., width:], before[0][..., width:])
    with torch.no_grad():
        for piece in first.query_slices(first.heads - 1):
            piece.data.zero_()
        model(ids)
    last = (first.heads - 1) * first.head_dim
    assert not torch.allclose(seen[0][:, 2:, last:], before[0][:, 2:, last:])
    assert torch.equal(seen[0][..., width:last], before[0][..., width:last])


def test_generation_with_a_cache_follows_the_gates(architecture, ids):
    model = PlasticModel(build(architecture))
    mask = torch.zeros(2, 4, dtype=torch.bool)
    mask[0, 1] = mask[1, 2] = True
    model.prune(mask)
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    cached = model.generate(ids[:1], use_cache=True, **options)
    plain = model.generate(ids[:1], use_cache=False, **options)
    assert torch.equal(cached, plain)


def test_an_unknown_architecture_lists_the_known_ones():
    import transformers as tf

    config = tf.XGLMConfig(vocab_size=32, d_model=16, num_layers=1, attention_heads=2, ffn_dim=32)
    with pytest.raises(InputError, match=r"xglm.*gpt2.*register_layout"):
        PlasticModel(tf.AutoModelForCausalLM.from_config(config))
