"""MLP neuron blocks as units beside the heads: gates, signals, costs, repair, and the environment over both."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from plasticity_env import InputError, PlasticModel, controllers, flops, mean_loss, measure
from plasticity_env.envs.observation import head_column
from plasticity_env.repair import repair_sites
from tests.conftest import HEADS_ONLY, build, but, same


@but(*HEADS_ONLY)
def test_open_blocks_change_nothing_and_closed_ones_equal_zeroed_rows(architecture, ids):
    stock = build(architecture)
    with torch.no_grad():
        dense = stock(ids).logits
        model = PlasticModel(stock, mlp_blocks=4)
        assert same(architecture, model(ids).logits, dense)
        mask = torch.zeros(model.shape, dtype=torch.bool)
        mask[0, model.heads + 1] = mask[1, model.heads + 3] = True
        model.prune(mask)
        closed = model(ids).logits
        model.revive(mask)
        for layer, block in ((0, 1), (1, 3)):
            model.mlps[layer].output_slice(block).data.zero_()
        assert torch.allclose(closed, model(ids).logits, atol=1e-5)
        assert not torch.allclose(closed, dense, atol=1e-3 * float(dense.abs().max()))


@but(*HEADS_ONLY)
def test_gate_gradients_of_blocks_equal_finite_differences(architecture, ids):
    model = PlasticModel(build(architecture).double(), mlp_blocks=2)
    found = measure(model, ids).gate_gradient
    for layer, unit in ((0, model.heads), (1, model.heads + 1), (1, 0)):
        losses = []
        for sign in (1, -1):
            gates = torch.ones(model.shape, dtype=torch.float64)
            gates[layer, unit] += sign * 0.01
            with model.using(gates):
                losses.append(mean_loss(model, ids))
        assert float(found[layer, unit]) == pytest.approx((losses[0] - losses[1]) / 0.02, rel=0.05, abs=1e-3)


@but(*HEADS_ONLY)
def test_flops_of_pruned_blocks_are_those_of_smaller_projections(architecture, ids):
    model = PlasticModel(build(architecture), mlp_blocks=4)
    dense = flops(model, 12)
    mask = torch.zeros(model.shape, dtype=torch.bool)
    mask[0, model.heads] = True
    model.prune(mask)
    mlp = model.mlps[0]
    rows = sum(module.weight.numel() for module in [*mlp.inputs, mlp.output])
    assert dense - flops(model, 12) == pytest.approx(2 * rows / 4)
    with FlopCounterMode(display=False) as counter:
        mlp.output(torch.zeros(5, mlp.width))
    assert counter.get_total_flops() == 5 * 2 * mlp.output.weight.numel()


@but(*HEADS_ONLY)
def test_repair_of_blocks_lowers_the_error_of_the_output(architecture, ids):
    model = PlasticModel(build(architecture), mlp_blocks=4)
    statistics = measure(model, ids, statistics=True).statistics
    mask = torch.zeros(model.shape, dtype=torch.bool)
    mask[1, model.heads + 2] = True
    outputs = []
    model.mlps[1].output.register_forward_hook(lambda module, args, output: outputs.append(output.detach()))
    with torch.no_grad():
        model(ids)
        model.prune(mask)
        model(ids)
        repair_sites(model, "least_squares", statistics, ridge=0.01)
        assert model.repaired_sites == [3]
        model(ids)
        model.revive(mask)
        model(ids)
    dense, pruned, repaired, revived = outputs
    assert (repaired - dense).norm() < 0.9 * (pruned - dense).norm()
    assert torch.equal(revived, dense)


def test_blocks_must_divide_the_neurons():
    with pytest.raises(InputError, match="128 neurons do not make 7 equal blocks: use one of"):
        PlasticModel(build("llama"), mlp_blocks=7)


def test_the_environment_over_heads_and_blocks(make_env):
    env = make_env(units="heads+mlp", mlp_blocks=4, repair="least_squares")
    observation, info = env.reset(seed=0)
    layers, units = env.unwrapped.workbench.model.shape
    assert units == 8
    assert observation["heads"].shape[0] == layers * units
    is_mlp = head_column(observation, "is_mlp").reshape(layers, units)
    assert (is_mlp == (np.arange(units) >= 4)).all()
    action = np.zeros(layers * units, dtype=np.int64)
    action[[4, 9]] = 1  # a block and a head
    _, reward, _, _, after = env.step(action)
    assert after["active_units"] == layers * units - 2
    assert after["active_heads"] == layers * 4 - 1
    assert after["flops"] < info["flops"]
    terms = after["reward_terms"]
    assert reward == pytest.approx(sum(terms.values()), abs=1e-6)
    assert terms["cost"] == pytest.approx(-4.0 * np.log(after["flops"] / info["flops"]), rel=1e-5)


@pytest.mark.parametrize("name", ["fisher", "random", "entropy_low", "plasticity", "ann"])
def test_controllers_play_on_heads_and_blocks(make_env, name):
    """Residual scores of 512 neurons take seconds, and only the network reads them."""
    env = make_env(units="heads+mlp", mlp_blocks=4, horizon=1, max_sparsity=1.0, residual_signal=name == "ann")
    observation, info = env.reset(seed=0)
    options = {"sparsity": 0.3} if name != "plasticity" else {}
    controller = controllers.make(name, **options)
    controller.reset(0)
    _, _, _, _, after = env.step(controller.act(observation))
    units = head_column(observation, "flop_share").sum() * info["flops"]
    if name in ("fisher", "random"):
        gone = (info["flops"] - after["flops"]) / units
        assert 0.2 < gone <= 0.3 + 1e-6
    if name == "entropy_low":
        assert after["active_units"] - after["active_heads"] == 16


def test_a_model_wrapped_otherwise_is_refused():
    import gymnasium as gym

    from plasticity_env import load_model

    with pytest.raises(InputError, match="mlp_blocks=0, the environment wants 4"):
        gym.make("plasticity/Heads-v1", loaded=load_model("bard-gpt2-4x4"), units="heads+mlp", mlp_blocks=4)
