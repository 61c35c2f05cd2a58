"""The cycle in one call: what it returns agrees with the model that it leaves and with Hugging Face's own loss."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.utils.data import DataLoader

from plasticity_env import (
    InputError,
    PlasticModel,
    calculate_head_gradients,
    load_model,
    mean_loss,
    measure,
    run_plasticity_loop,
    train_with_plasticity,
)
from plasticity_env.functional.loop import calibration_text, worth_reviving
from tests.conftest import build
from tests.plasticity_env.training.rows import GPT2, LLAMA, head_rows, text, weights


def blocks(name, length=24):
    split = text(name, length)
    return split.blocks("reward")[:24], split.blocks("test")[:8]


def loader(ids):
    return DataLoader([{"input_ids": row} for row in ids], batch_size=4)


def stock_perplexity(model, ids):
    with torch.no_grad():
        return math.exp(float(model(input_ids=ids, labels=ids).loss))


@pytest.mark.parametrize("name", [GPT2, LLAMA])
def test_a_plain_model_goes_through_the_cycle(name):
    train, test = blocks(name)
    model = load_model(name).model.model
    stock = copy.deepcopy(model)
    stock.set_attn_implementation("sdpa")
    result = run_plasticity_loop(
        model,
        loader(train),
        loader(test),
        0.4,
        "gradient",
        1e-3,
        6,
        revival_ratio=0.5,
        control=True,
        calibration_batches=2,
    )
    plastic = result["model"]
    assert plastic.model is model
    assert result["baseline"]["perplexity"] == pytest.approx(stock_perplexity(stock, test), rel=1e-5)
    assert result["baseline"]["active_heads"] == plastic.active.numel()
    pruned, revived = set(result["pruned_heads"]), set(result["revived_heads"])
    assert len(pruned) == round(0.4 * plastic.active.numel())
    assert 0 < len(revived) <= len(pruned) / 2
    assert revived < pruned
    assert {tuple(at) for at in (~plastic.active).nonzero().tolist()} == pruned - revived
    assert torch.equal(result["active"], plastic.active)
    assert result["pruned"]["sparsity"] == pytest.approx(len(pruned) / plastic.active.numel())
    assert result["final"]["active_heads"] == int(plastic.active.sum())
    dense = dict(stock.named_parameters())
    for layer, head in pruned - revived:
        for key, at in head_rows(name, layer, head):
            assert torch.equal(weights(plastic)[key][at], dense[key][at])
    expected = calculate_head_gradients(stock, train[:8])
    assert torch.allclose(result["grad_norm_values"], expected, rtol=1e-4)
    assert [row["step"] for row in result["training"]] == list(range(1, 7))
    assert result["control"]["active_heads"] == plastic.active.numel()
    assert abs(result["control"]["loss"] - result["baseline"]["loss"]) > 1e-3


def test_the_control_arm_is_plain_training_of_the_dense_model():
    train, test = blocks(GPT2)
    result = run_plasticity_loop(
        load_model(GPT2).model, loader(train), test, 0.25, "magnitude", 1e-3, 4, control=True, repair="bias"
    )
    alone = load_model(GPT2).model
    train_with_plasticity(alone, loader(train), 4, learning_rate=1e-3)
    assert result["control"]["perplexity"] == pytest.approx(stock_perplexity(alone, test), rel=1e-5)


def test_it_repeats():
    train, test = blocks(GPT2)

    def run(seed):
        result = run_plasticity_loop(load_model(GPT2).model, train, test, 0.3, "random", 1e-3, 3, seed=seed)
        return result["pruned_heads"], result["final"]["loss"], result["training"]

    assert run(1) == run(1)
    assert run(1)[0] != run(2)[0]


def test_nothing_is_revived_in_compressed_mode_or_where_the_ratio_says_so():
    train, test = blocks(GPT2)
    compressed = PlasticModel(load_model(GPT2).model.model, "compressed")
    assert run_plasticity_loop(compressed, train, test, 0.4, training_steps=2)["revived_heads"] == []
    model = load_model(GPT2).model
    assert run_plasticity_loop(model, train, test, 0.4, training_steps=2, revival_ratio=0.0)["revived_heads"] == []


def test_only_heads_that_lower_the_loss_are_worth_reviving():
    train, _ = blocks(GPT2)
    model = load_model(GPT2).model
    mask = torch.zeros(model.shape, dtype=torch.bool)
    mask[:, :2] = True
    model.prune(mask)
    gain = measure(model, train, obs=False).revive
    best = worth_reviving(model, mask, 3, train)
    assert int(best.sum()) == min(3, int((gain[mask] > 0).sum()))
    assert gain[best].min() == gain[mask].sort(descending=True).values[int(best.sum()) - 1]
    assert torch.equal(worth_reviving(model, mask, 16, train), mask & (gain > 0))
    assert not worth_reviving(model, mask, 0, train).any()


def test_padding_is_left_out_of_calibration_and_counts_nowhere():
    ids = torch.arange(3, 43).view(4, 10)
    mask = torch.ones_like(ids)
    mask[1, 4:] = mask[3, :3] = 0
    found = calibration_text([{"input_ids": ids, "attention_mask": mask}], 8, 2)
    assert found.flatten().tolist() == ids[mask.bool()].tolist()[:30]
    model = PlasticModel(build("gpt2"))
    batches = [{"input_ids": ids, "attention_mask": mask}] * 3
    result = run_plasticity_loop(model, batches, batches, 0.25, "fisher", 1e-3, 2, distillation=0.5)
    assert result["baseline"]["tokens"] == 3 * int((mask[:, 1:] * mask[:, :-1]).sum())
    assert result["training"][0]["distillation"] > 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pruning_level": 1.0}, r"pruning level must lie in \[0, 1\)"),
        ({"strategy": "fischer"}, "did you mean 'fisher'"),
        ({"training_steps": -1}, "training steps must be at least 0"),
        ({"revival_ratio": 2.0}, "revival_ratio"),
        ({"repair": "glue"}, "unknown repair"),
        ({"train_dataloader": []}, "there is no batch to read"),
        ({"eval_dataloader": []}, "there is no batch to read"),
    ],
)
def test_what_cannot_be_used_leaves_the_model_untouched(settings, words):
    train, test = blocks(GPT2, 8)
    model = load_model(GPT2).model
    before = weights(model)
    arguments = {"train_dataloader": train, "eval_dataloader": test, "training_steps": 1} | settings
    with pytest.raises(InputError, match=words):
        run_plasticity_loop(model, **arguments)
    assert bool(model.active.all())
    assert all(torch.equal(value, before[key]) for key, value in weights(model).items())


def test_training_a_plain_model_leaves_its_wrapper_in_charge():
    stock = build("gpt2")
    model, blocks = PlasticModel(stock), torch.randint(0, 128, (4, 12), generator=torch.Generator().manual_seed(0))
    assert len(train_with_plasticity(stock, blocks, 1)) == 1
    before = mean_loss(model, blocks)
    mask = torch.zeros(model.shape, dtype=torch.bool)
    mask[0, :3] = True
    model.prune(mask)
    assert abs(mean_loss(model, blocks) - before) > 1e-4
