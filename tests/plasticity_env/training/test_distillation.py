"""Distillation beside an independent computation of its loss and of the step that it makes."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from plasticity_env import InputError, PlasticityTrainer, PlasticModel, get_plasticity_optimizer
from plasticity_env.training import Distillation, TokenBatch, dense_teacher, distillation_loss
from tests.conftest import build
from tests.plasticity_env.training.rows import weights

IDS = torch.randint(3, 128, (4, 10), generator=torch.Generator().manual_seed(3))


def pruned(architecture="llama", mlp_blocks=0):
    model = PlasticModel(build(architecture).double(), mlp_blocks=mlp_blocks)
    mask = torch.zeros(model.shape, dtype=torch.bool)
    mask[0, :2] = mask[1, 3] = True
    if mlp_blocks:
        mask[1, -1] = True
    model.prune(mask)
    return model


def softmax(logits):
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    return odds / odds.sum(-1, keepdims=True)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_divergence_in_plain_numpy(temperature):
    random = np.random.default_rng(0)
    student, teacher, counted = (
        random.normal(size=(2, 5, 7)),
        random.normal(size=(2, 5, 7)),
        random.random((2, 5)) < 0.6,
    )
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    wanted = (p * (np.log(p) - np.log(q))).sum(-1)[counted].sum()
    found = distillation_loss(torch.tensor(student), torch.tensor(teacher), torch.tensor(counted), temperature)
    assert float(found) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_step_minimises_what_is_said(architecture, accumulation):
    """(1 - w) CE + w tau^2 KL over the tokens that count, with torch.distributions and one step of plain SGD."""
    model, stock, dense = pruned(architecture), pruned(architecture), build(architecture).double()
    mask = torch.ones_like(IDS)
    mask[2, 6:] = 0
    logits = stock(input_ids=IDS, attention_mask=mask).logits[:, :-1]
    with torch.no_grad():
        taught = dense(input_ids=IDS, attention_mask=mask).logits[:, :-1]
    counted = (mask[:, 1:] * mask[:, :-1]).bool()
    nats = -Categorical(logits=logits).log_prob(IDS[:, 1:])[counted].mean()
    tau, weight = 2.0, 0.3
    kl = kl_divergence(Categorical(logits=taught / tau), Categorical(logits=logits / tau))[counted].mean()
    ((1 - weight) * nats + weight * tau**2 * kl).backward()
    wanted = {n: p.detach() - 0.01 * p.grad for n, p in stock.model.named_parameters()}

    trainer = PlasticityTrainer(
        model,
        lambda step: TokenBatch(*(t.chunk(accumulation)[step] for t in (IDS, mask))),
        optimizer=get_plasticity_optimizer(model, 0.01, 0.0, "sgd"),
        accumulation=accumulation,
        distillation=Distillation.from_dense(model, weight=weight, temperature=tau),
        max_grad_norm=None,
    )
    (step,) = trainer.run(1)
    assert step.loss == pytest.approx(float(nats.detach()), rel=1e-9)
    assert step.distillation == pytest.approx(float(kl.detach()), rel=1e-9)
    for key, value in weights(model).items():
        assert torch.allclose(value, wanted[key], rtol=0, atol=1e-12), key


@pytest.mark.parametrize("mlp_blocks", [0, 2])
def test_the_teacher_is_the_dense_model_and_stays_it(mlp_blocks):
    dense = PlasticModel(build("gpt2").double(), mlp_blocks=mlp_blocks)
    wanted = build("gpt2").double()(input_ids=IDS).logits
    before = dense.snapshot()
    model = pruned("gpt2", mlp_blocks)
    site = model.sites[0]
    model.apply_repair(0, site.output_weight() * 1.1, torch.ones_like(site.output_weight()[0]))
    teacher = dense_teacher(model)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert torch.equal(teacher(input_ids=IDS).logits, wanted)
    assert not torch.allclose(model(input_ids=IDS).logits, wanted)
    PlasticityTrainer(model, lambda _: IDS, distillation=Distillation(teacher), learning_rate=1e-2).run(2)
    assert torch.equal(teacher(input_ids=IDS).logits, wanted)
    assert all(parameter.requires_grad for parameter in copy.deepcopy(dense).parameters())

    PlasticityTrainer(dense, lambda _: IDS, learning_rate=1e-2).run(2)
    assert torch.equal(dense_teacher(dense, before)(input_ids=IDS).logits, wanted)
    assert not torch.allclose(dense_teacher(dense)(input_ids=IDS).logits, wanted)


def test_learning_from_the_dense_model_alone_brings_the_pruned_one_nearer():
    model = pruned("llama")
    distillation = Distillation.from_dense(model, weight=1.0)
    steps = PlasticityTrainer(model, lambda _: IDS, distillation=distillation, learning_rate=1e-3).run(20)
    assert steps[-1].distillation < 0.5 * steps[0].distillation


def hidden_states(model):
    """Of each layer's block, by the stock argument; the last comes from a hook, as stock models norm the one they return."""
    last = []
    blocks = model.model.transformer.h if hasattr(model.model, "transformer") else model.model.model.layers
    hook = blocks[-1].register_forward_hook(
        lambda module, args, out: last.append(out[0] if isinstance(out, tuple) else out)
    )
    states = list(model(input_ids=IDS, output_hidden_states=True).hidden_states[1:-1])
    hook.remove()
    return [*states, *last]


def attention_outputs(model):
    found = []
    hooks = [block.output.register_forward_hook(lambda m, a, out: found.append(out)) for block in model.blocks]
    model(input_ids=IDS)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("parts", [("hidden",), ("attention",), ("logits", "hidden", "attention")])
def test_the_difference_inside_in_plain_numbers(architecture, parts):
    """Squared distance over the teacher's mean squared norm, layer by layer, beside hidden states of the stock model."""
    model = pruned(architecture)
    distillation = Distillation.from_dense(model, parts=parts, weight=0.3)
    with torch.no_grad():
        wanted = {}
        for part, found in (("hidden", hidden_states), ("attention", attention_outputs)):
            pairs = [
                (a[:, :-1].numpy(), b[:, :-1].numpy())
                for a, b in zip(found(model), found(distillation.teacher), strict=True)
            ]
            wanted[part] = np.mean([((a - b) ** 2).sum(-1).mean() / (b**2).sum(-1).mean() for a, b in pairs])
    (step,) = PlasticityTrainer(model, lambda _: IDS, distillation=distillation, learning_rate=1e-4).run(1)
    for part in ("hidden", "attention"):
        assert (getattr(step, part) is None) == (part not in parts)
        if part in parts:
            assert getattr(step, part) == pytest.approx(wanted[part], rel=1e-4)
    assert (step.distillation is None) == ("logits" not in parts)


@pytest.mark.parametrize("part", ["hidden", "attention"])
def test_layers_come_nearer_to_the_dense_ones_and_the_teacher_stays(part):
    model = pruned("llama")
    distillation = Distillation.from_dense(model, weight=1.0, parts=(part,))
    before = {name: value.clone() for name, value in distillation.teacher.state_dict().items()}
    steps = PlasticityTrainer(model, lambda _: IDS, distillation=distillation, learning_rate=1e-3).run(20)
    assert getattr(steps[-1], part) < 0.7 * getattr(steps[0], part)
    assert all(torch.equal(value, before[name]) for name, value in distillation.teacher.state_dict().items())
    assert not any(parameter.requires_grad for parameter in distillation.teacher.parameters())


def test_gradients_reach_every_layer_from_the_hidden_states_alone():
    model = pruned("gpt2")
    before = weights(model)
    distillation = Distillation.from_dense(model, weight=1.0, parts=("hidden",))
    PlasticityTrainer(model, lambda _: IDS, distillation=distillation, learning_rate=1e-3).run(1)
    after = weights(model)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {f"transformer.h.{layer}.mlp.c_fc.weight" for layer in range(2)} <= moved


def test_what_cannot_be_compared_is_one_sentence():
    model = pruned("llama")
    with pytest.raises(InputError, match="needs a PlasticModel as the teacher"):
        Distillation(build("llama"), parts=("hidden",))
    with pytest.raises(InputError, match="unknown part to distil 'logit'"):
        Distillation.from_dense(model, parts=("logit",))
    with pytest.raises(InputError, match="names a part twice"):
        Distillation.from_dense(model, parts=("hidden", "hidden"))
    other = PlasticModel(build("llama").double())
    other.blocks = other.blocks[:1]
    with pytest.raises(InputError, match="compares layer by layer"):
        PlasticityTrainer(model, lambda _: IDS, distillation=Distillation(other, parts=("attention",)))
