"""Learning rates of single heads, checked on rows whose place is written down by hand."""

from __future__ import annotations

import copy

import pytest
import torch

from plasticity_env import (
    HeadLRManager,
    InputError,
    PlasticityTrainer,
    PlasticModel,
    get_plasticity_optimizer,
    load_model,
)
from tests.conftest import build
from tests.plasticity_env.training.rows import GPT2, LLAMA, group_rows, head_rows, weights

IDS = torch.randint(3, 1024, (40, 4, 16), generator=torch.Generator().manual_seed(5))
# Llama: (0, 1) is one of a group of four, (1, 4..7) a whole group
HEADS = {GPT2: [(0, 1), (3, 2)], LLAMA: [(0, 1), (1, 4), (1, 5), (1, 6), (1, 7)]}


def mask_of(model, heads):
    mask = torch.zeros(model.shape, dtype=torch.bool)
    for layer, head in heads:
        mask[layer, head] = True
    return mask


def own_rows(name):
    rows = [row for layer, head in HEADS[name] for row in head_rows(name, layer, head)]
    return rows + (group_rows(1, 1) if name == LLAMA else [])


def optimizer_of(kind, model, learning_rate=1e-3):
    if kind == "momentum":
        return get_plasticity_optimizer(model, learning_rate, kind="sgd", momentum=0.9)
    return get_plasticity_optimizer(model, learning_rate, 0.1, kind)


@pytest.mark.parametrize("kind", ["adamw", "sgd", "momentum"])
@pytest.mark.parametrize("name", [GPT2, LLAMA])
def test_a_pruned_heads_weights_and_moments_stay_bit_identical(name, kind):
    model = load_model(name).model
    optimizer = optimizer_of(kind, model)
    rates = HeadLRManager(model, new_head_multiplier=4.0, existing_head_multiplier=2.0)
    trainer = PlasticityTrainer(model, lambda step: IDS[step], optimizer=optimizer, head_rates=rates)
    trainer.run(2)  # so that there are moments
    model.prune(mask_of(model, HEADS[name]))
    named = dict(model.model.named_parameters())

    def frozen():
        found = [named[key][at].detach().clone() for key, at in own_rows(name)]
        for key, at in own_rows(name):
            state = optimizer.state[named[key]]
            found += [value[at].clone() for _, value in sorted(state.items()) if getattr(value, "ndim", 0)]
        return found

    before, all_before = frozen(), weights(model)
    trainer.run(4)
    assert all(torch.equal(a, b) for a, b in zip(before, frozen(), strict=True))
    changed = [key for key, value in weights(model).items() if not torch.equal(value, all_before[key])]
    assert len(changed) == len(all_before)  # every parameter has rows that are not pruned


@pytest.mark.parametrize("name", [GPT2, LLAMA])
@pytest.mark.parametrize("multiplier", [0.5, 4.0])
def test_a_new_heads_update_is_multiplier_times_a_plain_one_under_sgd(name, multiplier):
    model = load_model(name, dtype=torch.float64).model
    model.prune(mask_of(model, HEADS[name]))
    model.grow(mask_of(model, HEADS[name]), initial_scale=0.3, generator=torch.Generator().manual_seed(1))
    before, plain = weights(model), copy.deepcopy(model)
    PlasticityTrainer(plain, lambda _: IDS[0], optimizer=optimizer_of("sgd", plain, 0.1)).run(1)
    rates = HeadLRManager(model, new_head_multiplier=multiplier)
    rates.mark_new(mask_of(model, HEADS[name]))
    PlasticityTrainer(model, lambda _: IDS[0], optimizer=optimizer_of("sgd", model, 0.1), head_rates=rates).run(1)
    after, other = weights(model), weights(plain)
    expected = {key: value.clone() for key, value in other.items()}
    for key, at in own_rows(name):
        update = other[key][at] - before[key][at]
        assert float(update.abs().max()) > 0
        expected[key][at] = before[key][at] + multiplier * update
    for (
        key
    ) in expected:  # whatever is not of a new head has the plain update; so has a group that an old head reads too
        assert torch.allclose(after[key], expected[key], rtol=0, atol=1e-15), key


@pytest.mark.parametrize("kind", ["adamw", "momentum"])
@pytest.mark.parametrize("name", [GPT2, LLAMA])
def test_it_is_another_learning_rate_for_other_optimizers_too(name, kind):
    """AdamW's decay and normalised steps: as an optimizer with four times the learning rate would move these rows."""
    model = load_model(name, dtype=torch.float64).model
    faster = copy.deepcopy(model)
    optimizer = optimizer_of(kind, model)
    rates = HeadLRManager(model, optimizer, new_head_multiplier=4.0)
    rates.mark_new(mask_of(model, HEADS[name]))
    PlasticityTrainer(model, lambda _: IDS[0], optimizer=optimizer, head_rates=rates).run(1)
    PlasticityTrainer(faster, lambda _: IDS[0], optimizer=optimizer_of(kind, faster, 4e-3)).run(1)
    after, other = weights(model), weights(faster)
    for key, at in own_rows(name):
        assert torch.allclose(after[key][at], other[key][at], rtol=0, atol=1e-14), key


def test_mlp_blocks_have_rates_too(ids):
    model = PlasticModel(build("llama").double(), mlp_blocks=2)
    before, plain, new = weights(model), copy.deepcopy(model), mask_of(model, [(1, 5)])
    rates = HeadLRManager(model, optimizer_of("sgd", model), new_head_multiplier=5.0)
    rates.mark_new(new)
    PlasticityTrainer(model, lambda _: ids, optimizer=rates.optimizer, head_rates=rates).run(1)
    PlasticityTrainer(plain, lambda _: ids, optimizer=optimizer_of("sgd", plain)).run(1)
    key, at = "model.layers.1.mlp.down_proj.weight", (slice(None), slice(64, 128))
    wanted = before[key][at] + 5 * (weights(plain)[key][at] - before[key][at])
    assert torch.allclose(weights(model)[key][at], wanted, rtol=0, atol=1e-14)
    assert torch.equal(weights(model)[key][:, :64], weights(plain)[key][:, :64])


def test_rates_warm_up_and_decay(ids):
    model = PlasticModel(build("gpt2"))
    rates = HeadLRManager(
        model, optimizer_of("sgd", model, 1e-9), new_head_multiplier=4.0, warmup_steps=2, decay_steps=3
    )
    model.prune(mask_of(model, [(0, 0), (1, 1)]))
    model.grow(mask_of(model, [(1, 1)]))
    rates.mark_new(mask_of(model, [(1, 1)]))
    trainer = PlasticityTrainer(model, lambda _: ids, optimizer=rates.optimizer, head_rates=rates)
    seen = []
    for _ in range(7):
        seen.append(rates.multiplier(1, 1))
        trainer.run(1)
    assert seen == pytest.approx([2, 4, 4, 3, 2, 1, 1])
    assert rates.multiplier(0, 0) == 0
    assert rates.multiplier(0, 1) == 1
    assert not rates.new.any()
    model.revive(mask_of(model, [(0, 0)]))
    assert rates.multiplier(0, 0) == 1


def test_a_new_head_that_was_pruned_meanwhile_is_new_no_more(ids):
    model = PlasticModel(build("gpt2"))
    rates = HeadLRManager(model, optimizer_of("sgd", model), decay_steps=None)
    rates.mark_new(mask_of(model, [(0, 2), (1, 2)]))
    model.prune(mask_of(model, [(0, 2)]))
    assert rates.multiplier(0, 2) == 0
    PlasticityTrainer(model, lambda _: ids, optimizer=rates.optimizer, head_rates=rates).run(1)
    model.revive(mask_of(model, [(0, 2)]))
    assert rates.multiplier(0, 2) == 1
    assert rates.multiplier(1, 2) == 3


def test_marking_zeroes_the_moments_of_new_heads_and_of_no_other(ids):
    model = PlasticModel(build("gpt2"))
    optimizer = optimizer_of("adamw", model)
    rates = HeadLRManager(model, optimizer)
    PlasticityTrainer(model, lambda _: ids, optimizer=optimizer, head_rates=rates).run(1)
    rates.mark_new(mask_of(model, [(0, 1)]))
    moment = optimizer.state[model.model.transformer.h[0].attn.c_proj.weight]["exp_avg"]  # rows of 4 heads of 16
    assert not moment[16:32].any()
    assert moment[:16].any()
    assert moment[32:].any()


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"new_head_multiplier": 0.0}, "new_head_multiplier"),
        ({"new_head_multiplier": float("nan")}, "new_head_multiplier"),
        ({"existing_head_multiplier": -1.0}, "existing_head_multiplier"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"decay_steps": 0}, "decay_steps"),
    ],
)
def test_settings_out_of_range(settings, word):
    with pytest.raises(InputError, match=word):
        HeadLRManager(PlasticModel(build("gpt2")), **settings)


def test_a_mask_of_another_shape():
    rates = HeadLRManager(PlasticModel(build("gpt2")))
    with pytest.raises(InputError, match="mask must be boolean"):
        rates.mark_new(torch.ones(3, 3))
    with pytest.raises(InputError, match="no optimizer to step"):
        rates.step()
