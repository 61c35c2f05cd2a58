"""Training repeats, resumes bit for bit, accumulates as one batch, and stops at whole steps."""

from __future__ import annotations

import math

import pytest
import torch

from plasticity_env import (
    InputError,
    PlasticityTrainer,
    PlasticModel,
    create_plasticity_trainer,
    get_plasticity_optimizer,
    load_model,
)
from plasticity_env.model.checkpoints import load_checkpoint, save_plastic
from plasticity_env.training import BlockBatches, Distillation, LoaderBatches, TokenBatch
from tests.conftest import build
from tests.plasticity_env.training.rows import GPT2, LLAMA, weights

BLOCKS = torch.randint(3, 1024, (30, 12), generator=torch.Generator().manual_seed(5))


def plastic(architecture="gpt2"):
    return PlasticModel(build(architecture).double())


def lived(name):
    """Pruned heads, one of them grown and in the middle of its warm-up; returns the mask of that one."""
    model = load_model(name).model
    grown, pruned = (torch.zeros(model.shape, dtype=torch.bool) for _ in range(2))
    pruned[0, :2] = pruned[2, 1] = grown[2, 1] = True
    model.prune(pruned)
    model.grow(grown, warmup_steps=5, generator=torch.Generator().manual_seed(1))
    return model, grown


def trainer_of(model, grown=None):
    return create_plasticity_trainer(
        model,
        BLOCKS,
        batch_size=4,
        learning_rate=1e-3,
        new_heads=grown,
        accumulation=2,
        rate_warmup_steps=2,
        rate_decay_steps=3,
    )


@pytest.mark.parametrize("where", ["folder", "file.pth"])
@pytest.mark.parametrize("name", [GPT2, LLAMA])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, name, where):
    whole, grown = lived(name)
    straight = trainer_of(whole, grown)
    steps = straight.run(7)

    cut, grown = lived(name)
    first = trainer_of(cut, grown)
    before = first.run(3)
    save_plastic(cut, tmp_path / where, training=first.state_dict(), notes={"why": "cut"})
    checkpoint = load_checkpoint(tmp_path / where)
    assert checkpoint.notes == {"why": "cut"}
    again = trainer_of(checkpoint.loaded.model)
    again.load_state_dict(checkpoint.training)
    assert before + again.run(4) == steps
    model = checkpoint.loaded.model
    other = weights(whole)
    assert all(torch.equal(value, other[key]) for key, value in weights(model).items())
    assert torch.equal(model.scale, whole.scale)
    assert torch.equal(again.head_rates.multipliers, straight.head_rates.multipliers)
    for one, two in zip(again.optimizer.state.values(), straight.optimizer.state.values(), strict=True):
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_accumulation_is_one_big_batch_even_of_uneven_and_padded_parts():
    ids = BLOCKS[:7] % 128
    mask = torch.ones(7, 12, dtype=torch.long)
    mask[1, 5:] = mask[6, 9:] = 0
    parts = [TokenBatch(ids[a:b], mask[a:b]) for a, b in ((0, 3), (3, 4), (4, 7))]
    one, three = plastic(), plastic()
    sgd = [get_plasticity_optimizer(model, 0.1, kind="sgd") for model in (one, three)]
    big = PlasticityTrainer(one, lambda _: TokenBatch(ids, mask), optimizer=sgd[0])
    small = PlasticityTrainer(three, lambda step: parts[step], optimizer=sgd[1], accumulation=3)
    (a,), (b,) = big.run(1), small.run(1)
    assert a.loss == pytest.approx(b.loss, abs=1e-12)
    assert a.grad_norm == pytest.approx(b.grad_norm, abs=1e-10)
    other = weights(three)
    assert all(torch.allclose(value, other[key], rtol=0, atol=1e-13) for key, value in weights(one).items())


def test_loss_and_gradient_norm_against_hugging_face():
    model, ids = plastic("llama"), BLOCKS[:5] % 128
    stock = build("llama").double()
    loss = stock(input_ids=ids, labels=ids).loss
    loss.backward()
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in stock.parameters()))
    (step,) = PlasticityTrainer(model, lambda _: ids, learning_rate=1e-3).run(1)
    assert step.loss == pytest.approx(float(loss.detach()), rel=1e-6)
    assert step.grad_norm == pytest.approx(norm, rel=1e-6)
    assert (step.step, step.learning_rate, step.distillation) == (1, 1e-3, None)


def test_gradients_are_clipped_to_the_norm():
    ids = BLOCKS[:5] % 128
    updates = []
    for limit in (None, 1e-3):
        model = plastic()
        before = weights(model)
        optimizer = get_plasticity_optimizer(model, 1.0, kind="sgd", weight_decay=0.0)
        (step,) = PlasticityTrainer(model, lambda _: ids, optimizer=optimizer, max_grad_norm=limit).run(1)
        moved = math.sqrt(sum(float((v - before[k]).square().sum()) for k, v in weights(model).items()))
        updates.append(moved)
    assert updates[0] == pytest.approx(step.grad_norm, rel=1e-6)
    assert updates[1] == pytest.approx(1e-3, rel=1e-3)


def test_dropout_is_off_while_training_and_the_mode_comes_back():
    losses = []
    for _ in range(2):
        model = plastic()  # a configuration with dropout 0.1
        model.train()
        losses.append([step.loss for step in PlasticityTrainer(model, lambda _: BLOCKS[:3] % 128).run(3)])
        assert model.training
        assert model.model.training
    assert losses[0] == losses[1]


def test_mixed_precision_keeps_float32_weights_and_pruned_heads():
    model, _ = lived(GPT2)
    rows = model.model.transformer.h[0].attn.c_proj.weight[:64].detach().clone()
    full = trainer_of(lived(GPT2)[0]).run(3)
    trainer = create_plasticity_trainer(model, BLOCKS, batch_size=8, learning_rate=1e-3, mixed_precision=True)
    steps = trainer.run(3)
    assert abs(steps[0].loss - full[0].loss) > 1e-5 * full[0].loss  # it did compute in bfloat16
    assert steps[0].loss == pytest.approx(full[0].loss, rel=0.02)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.equal(model.model.transformer.h[0].attn.c_proj.weight[:64], rows)


def test_weights_in_half_precision_are_refused():
    with pytest.raises(InputError, match=r"vanish in bfloat16 weights: train model.float\(\)"):
        PlasticityTrainer(PlasticModel(build("gpt2").bfloat16()), lambda _: BLOCKS)


def test_a_diverged_step_is_not_taken():
    model = plastic()
    trainer = PlasticityTrainer(model, lambda _: BLOCKS[:3] % 128)
    trainer.run(1)
    with torch.no_grad():
        model.model.transformer.ln_f.weight[0] = torch.nan
    before = weights(model)
    with pytest.raises(InputError, match="not finite"):
        trainer.run(2)
    assert trainer.taken == 1
    assert all(torch.equal(value.nan_to_num(), before[key].nan_to_num()) for key, value in weights(model).items())


def test_stopping_in_a_callback_leaves_a_whole_step():
    def stop(step):
        if step.step == 2:
            raise KeyboardInterrupt

    model, other = plastic(), plastic()
    batches = BlockBatches(BLOCKS % 128, 4)
    stopped = PlasticityTrainer(model, batches, learning_rate=1e-3)
    with pytest.raises(KeyboardInterrupt):
        stopped.run(5, stop)
    assert stopped.taken == 2
    stopped.run(1)
    PlasticityTrainer(other, batches, learning_rate=1e-3).run(3)
    assert all(torch.equal(value, weights(other)[key]) for key, value in weights(model).items())


def test_every_epoch_reads_each_block_once_in_another_order():
    batches = BlockBatches(torch.arange(24).view(12, 2), 4, seed=3)
    epochs = [torch.cat([batches(3 * epoch + i) for i in range(3)])[:, 0].tolist() for epoch in range(3)]
    assert all(sorted(epoch) == list(range(0, 24, 2)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert torch.equal(batches(1), batches(1))
    assert batches(1)[:, 0].tolist() == epochs[0][4:8]


def test_a_loader_is_read_once_and_repeats():
    shuffled = torch.utils.data.DataLoader(BLOCKS, batch_size=8, shuffle=True)
    batches = LoaderBatches(shuffled)
    ids = [batches(step).input_ids for step in range(8)]  # 30 blocks are 4 batches
    assert all(torch.equal(ids[step], ids[step + 4]) for step in range(4))
    assert sorted(map(tuple, torch.cat(ids[:4]).tolist())) == sorted(map(tuple, BLOCKS.tolist()))
    with pytest.raises(InputError, match="yields no batch"):
        LoaderBatches([])(0)


def test_what_cannot_be_used():
    model = plastic()
    for settings, words in (
        ({"accumulation": 0}, "accumulation must be at least 1"),
        ({"max_grad_norm": 0.0}, "max_grad_norm must be above 0"),
        ({"learning_rate": -1.0}, "learning_rate must be above 0"),
    ):
        with pytest.raises(InputError, match=words):
            PlasticityTrainer(model, lambda _: BLOCKS, **settings)
    with pytest.raises(InputError, match="weight of distillation"):
        Distillation(model, weight=1.5)
    with pytest.raises(InputError, match="known are adamw, sgd"):
        get_plasticity_optimizer(model, kind="adam")
    padded = TokenBatch(BLOCKS[:2] % 128, torch.zeros(2, 12, dtype=torch.long))
    with pytest.raises(InputError, match="all of it is padding"):
        PlasticityTrainer(model, lambda _: padded).run(1)
    with pytest.raises(InputError, match="belongs to another model"):
        PlasticityTrainer(model, lambda _: BLOCKS).load_state_dict(
            PlasticityTrainer(plastic("qwen2"), lambda _: BLOCKS).state_dict()
        )
