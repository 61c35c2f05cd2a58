"""Neurons in order: the same model, prices that are what they say, and blocks that are worth less towards the back."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from plasticity_env import InputError, PlasticModel, TextSplits, load_model
from plasticity_env.envs.shared_arrays import pack
from plasticity_env.model.checkpoints import load_plastic, save_plastic
from plasticity_env.model.loading import LoadedModel
from plasticity_env.signals.linalg import RIDGE
from plasticity_env.signals.measure import sequence_losses
from plasticity_env.strategies.neuron_order import ORDERS, kfac, neuron_sums, order_neurons
from tests.conftest import HEADS_ONLY, SMALL, build, but

REAL = [name for name, price in ORDERS.items() if price is not None]


def text_of(ids):
    """A text whose calibration blocks are these."""
    return TextSplits("toy", ids.shape[1], None, {}, {"calibration": ids})


@but(*HEADS_ONLY)
@pytest.mark.parametrize("order", REAL)
def test_neurons_trade_places_and_the_model_computes_the_same(architecture, order, ids):
    model, stock = PlasticModel(build(architecture), mlp_blocks=4), build(architecture)
    version = model.weight_version
    order_neurons(model, text_of(ids), order)
    with torch.no_grad():
        assert torch.allclose(model.model(ids).logits, stock(ids).logits, rtol=1e-3, atol=1e-3)
    assert model.weight_version != version
    moved = 0
    for name, weight in stock.state_dict().items():
        now = model.state_dict()[name]
        assert torch.equal(now.flatten().sort().values, weight.flatten().sort().values), name
        moved += not torch.equal(now, weight)
    assert moved >= 2 * len(model.mlps)
    assert not any(parameter.grad is not None for parameter in model.parameters())
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    order_neurons(model, text_of(ids), order)  # is there already
    order_neurons(model, text_of(ids), "stored")  # leaves what it finds
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


@but(*HEADS_ONLY)
@pytest.mark.parametrize("order", REAL)
def test_what_lies_further_back_is_cheaper(architecture, order, ids):
    model = PlasticModel(build(architecture), mlp_blocks=4)
    order_neurons(model, text_of(ids), order)
    price = ORDERS[order]
    for sums in neuron_sums(model, ids):
        prices = price(sums)
        assert bool((prices[1:] <= prices[:-1] * (1 + 1e-3) + 1e-12).all())
        assert prices[0] > prices[-1]


@but(*HEADS_ONLY)
def test_the_sums_are_those_of_every_neurons_tokens(architecture, ids):
    """The slope of a token is the loss's derivative in a factor on the neuron there."""
    model = PlasticModel(build(architecture), mlp_blocks=4)
    found, lean = neuron_sums(model, ids, batch_size=2), neuron_sums(model, ids, batch_size=2, moments=False)
    for index, mlp in enumerate(model.mlps):
        assert lean[index].inputs is None
        assert torch.equal(lean[index].gradients, found[index].gradients)
        assert torch.equal(lean[index].slopes, found[index].slopes)
        seen = []

        def scale(module, args, seen=seen):
            x = args[0].detach()
            factor = torch.ones_like(x).requires_grad_()
            seen.extend((x, factor))
            return (x * factor,)

        hook = mlp.output.register_forward_pre_hook(scale)
        sequence_losses(model, ids).sum().backward()
        hook.remove()
        x, factor = seen
        slopes = factor.grad.flatten(0, -2).double()
        rows = x.flatten(0, -2).double()
        assert torch.allclose(found[index].slopes, slopes.square().sum(0), rtol=1e-3, atol=1e-10)
        assert torch.allclose(found[index].inputs, rows.T @ rows, rtol=1e-4, atol=1e-6)
        there = rows.abs() > 1e-6  # g = slope / x
        ratio = torch.where(there, slopes / rows.where(there, torch.ones_like(rows)), 0.0).square().sum(0)
        whole = there.all(0)
        assert torch.allclose(found[index].gradients[whole], ratio[whole], rtol=1e-2, atol=1e-10)


def test_kfac_prices_what_ridge_regression_on_the_other_neurons_leaves(ids):
    (sums, *_) = neuron_sums(PlasticModel(build("gpt_neox"), mlp_blocks=4), ids)
    prices, count = kfac(sums), len(sums.gradients)
    penalty = RIDGE * sums.inputs.diagonal().mean()
    for neuron in (0, 17, count - 1):
        others = torch.tensor([index for index in range(count) if index != neuron])
        system = sums.inputs[others][:, others] + penalty * torch.eye(count - 1).double()
        weights = torch.linalg.solve(system, sums.inputs[others, neuron])
        combination = torch.zeros(count).double()
        combination[neuron], combination[others] = 1.0, -weights
        left = combination @ sums.inputs @ combination
        assert prices[neuron].item() == pytest.approx(float(left * sums.gradients[neuron]), rel=1e-6)


@pytest.fixture(scope="module")
def of_quarters():
    """What closing a quarter of every layer's blocks costs on test text, the rest repaired, by order."""
    found = {}
    for order in ORDERS:
        settings = {**SMALL, "calibration_blocks": 16, "units": "heads+mlp", "neuron_order": order}
        settings |= {"obs_signal": False, "residual_signal": False}
        env = gym.make("plasticity/Heads-v1", **settings).unwrapped
        env.reset(seed=0)
        model = env.workbench.model
        masks = torch.ones(5, *model.shape, dtype=torch.bool)
        for quarter in range(4):
            masks[quarter, :, model.heads + 2 * quarter : model.heads + 2 * quarter + 2] = False
        *closed, dense = (env.evaluate("test", 32, mask) for mask in masks)
        found[order] = [loss - dense for loss in closed]
    return found


@pytest.mark.parametrize("order", REAL)
def test_the_last_blocks_of_a_trained_model_are_missed_less_than_any_stored_ones(of_quarters, order):
    ordered = of_quarters[order]
    assert ordered[0] == max(ordered)
    assert ordered[-1] == min(ordered)
    assert ordered[-1] < min(of_quarters["stored"])


def test_the_environment_and_what_it_is_packed_and_saved_as_know_the_order(make_env, small_text, tmp_path):
    settings = {"units": "heads+mlp", "mlp_blocks": 4, "neuron_order": "kfac"}
    env = make_env(**settings)
    env.reset(seed=0)
    model = env.unwrapped.workbench.model
    assert model.neuron_order == "kfac"
    plain = make_env(units="heads+mlp", mlp_blocks=4).unwrapped
    plain.reset(seed=0)
    assert env.unwrapped.evaluate("test", 4) == pytest.approx(plain.evaluate("test", 4), abs=1e-5)
    loaded = LoadedModel(model, env.unwrapped.workbench.tokenizer, "it")
    again, text = pack(loaded, small_text, ["calibration", "reward", "test"]).open()
    before = [mlp.output_weight().clone() for mlp in again.model.mlps]
    make_env(**settings, loaded=again, text=text).reset(seed=0)
    assert all(torch.equal(mlp.output_weight(), weight) for mlp, weight in zip(again.model.mlps, before, strict=True))
    save_plastic(model, tmp_path / "it", loaded.tokenizer, "it")
    assert load_plastic(tmp_path / "it").model.neuron_order == "kfac"


def test_weights_that_others_read_are_left_alone(small_text):
    packed = pack(load_model(SMALL["model_name"], mlp_blocks=4), small_text, ["calibration"])
    before = {name: array.copy() for name, (array, _) in packed.weights.items()}
    loaded, text = packed.open()
    order_neurons(loaded.model, text, "kfac")
    assert all(np.array_equal(array, before[name]) for name, (array, _) in packed.weights.items())
    assert not torch.equal(loaded.model.mlps[0].output_weight(), packed.open()[0].model.mlps[0].output_weight())


def test_other_weights_are_in_an_order_of_their_own(ids):
    model = PlasticModel(build("llama"), mlp_blocks=4)
    order_neurons(model, text_of(ids), "kfac")
    model.load_state_dict(build("llama").state_dict())
    order_neurons(model, text_of(ids), "token_fisher")
    assert model.neuron_order == "token_fisher"


def test_bad_input_is_one_sentence(ids, make_env):
    text = text_of(ids)
    with pytest.raises(InputError, match="neuron order 'by_size'"):
        make_env(units="heads+mlp", neuron_order="by_size")
    pruned = PlasticModel(build("llama"), mlp_blocks=4)
    active = torch.ones(pruned.shape, dtype=torch.bool)
    active[0, 0] = False
    pruned.set_active(active)
    with pytest.raises(InputError, match="before anything is pruned"):
        order_neurons(pruned, text, "kfac")
    ordered = PlasticModel(build("llama"), mlp_blocks=4)
    order_neurons(ordered, text, "kfac")
    with pytest.raises(InputError, match="in the order 'kfac' already"):
        order_neurons(ordered, text, "token_fisher")
    broken = PlasticModel(build("llama"), mlp_blocks=4)
    broken.mlps[0].output_weight().fill_(float("nan"))
    with pytest.raises(InputError, match="not finite"):
        order_neurons(broken, text, "kfac")
    assert broken.neuron_order == "stored"


def test_a_snapshot_knows_the_order_of_its_weights(small_text):
    model = load_model(SMALL["model_name"], mlp_blocks=4).model
    stored, before = model.snapshot(), model.mlps[0].output_weight().clone()
    order_neurons(model, small_text, "token_fisher")
    ordered, after = model.snapshot(), model.mlps[0].output_weight().clone()
    model.restore(stored)
    assert model.neuron_order == "stored"
    assert torch.equal(model.mlps[0].output_weight(), before)
    model.restore(ordered)
    assert model.neuron_order == "token_fisher"
    assert torch.equal(model.mlps[0].output_weight(), after)


def test_an_environment_takes_no_model_whose_order_its_settings_do_not_name(make_env, small_text):
    loaded = load_model(SMALL["model_name"], mlp_blocks=4)
    order_neurons(loaded.model, small_text, "token_fisher")
    with pytest.raises(InputError, match="set neuron_order='token_fisher'"):
        make_env(units="heads+mlp", mlp_blocks=4, neuron_order="stored", loaded=loaded)
