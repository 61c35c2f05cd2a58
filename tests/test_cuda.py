"""The same code on a CUDA device: what it says there against what it says on the processor."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from plasticity_env import PlasticModel, create_plasticity_trainer, load_model, measure
from plasticity_env.agents.benchmarks.bench_options import Options
from plasticity_env.agents.benchmarks.bench_step import step_rows
from plasticity_env.agents.ppo.ppo import PPO
from plasticity_env.agents.ppo.ppo_config import PPOConfig
from plasticity_env.agents.ppo.rank_config import RankConfig
from plasticity_env.agents.ppo.rank_ppo import RankPPO
from plasticity_env.agents.ppo.scenarios import Stage
from plasticity_env.envs.edits import KEEP, PRUNE
from plasticity_env.envs.observation import RESIDUAL
from plasticity_env.envs.settings import Settings
from plasticity_env.repair import repair_in_order, repair_sites
from plasticity_env.repair.methods import METHODS
from plasticity_env.signals.measure import gather, mean_loss
from plasticity_env.signals.residual import crossfit_projectors
from plasticity_env.strategies.neuron_order import ORDERS, neuron_sums
from tests.conftest import HEADS_ONLY, SMALL, build, but

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

SIGNALS = ("gate_gradient", "gradient", "fisher", "entropy", "entropy_normalized", "activation", "magnitude", "obs")


def pair(architecture: str) -> tuple[PlasticModel, PlasticModel]:
    """One random model, on the processor and on the device."""
    model = build(architecture)
    return PlasticModel(model), PlasticModel(copy.deepcopy(model).to("cuda"))


def some_mask(shape: tuple[int, ...]) -> torch.Tensor:
    """Three of eight heads pruned."""
    active = torch.ones(shape, dtype=torch.bool)
    active[0, 1] = active[1, 0] = active[1, 3] = False
    return active


def test_signals_and_losses_agree(architecture, ids):
    here, there = pair(architecture)
    for active in (torch.ones(here.shape, dtype=torch.bool), some_mask(here.shape)):
        for model in (here, there):
            model.set_active(active)
        one, two = measure(here, ids, statistics=True), measure(there, ids, statistics=True)
        for name in SIGNALS:
            a, b = getattr(one, name), getattr(two, name)
            assert torch.allclose(a, b, rtol=5e-3, atol=1e-4 * float(a.abs().max())), name
        assert mean_loss(here, ids) == pytest.approx(mean_loss(there, ids), rel=1e-5)


def test_scores_along_residuals_agree(architecture, ids):
    found = []
    for model in pair(architecture):
        model.set_active(some_mask(model.shape))
        whole, halves = crossfit_projectors(model, ids)
        found.append(measure(model, ids, projectors=whole, crossfit=halves))
    for name in RESIDUAL:
        a, b = (getattr(signals, name) for signals in found)
        assert torch.allclose(a, b, rtol=2e-2, atol=1e-3 * float(a.abs().max())), name


@pytest.mark.parametrize("repair", sorted(METHODS))
def test_parallel_repairs_agree(architecture, ids, repair):
    losses = []
    for model in pair(architecture):
        statistics = gather(model, ids)
        model.set_active(some_mask(model.shape))
        repair_sites(model, repair, statistics)
        losses.append(mean_loss(model, ids))
        model.undo_repair()
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_sequential_repair_agrees(architecture):
    ids = torch.randint(0, 128, (24, 24), generator=torch.Generator().manual_seed(2))
    losses = []
    for model in pair(architecture):
        model.set_active(some_mask(model.shape))
        repair_in_order(model, ids, mlp=bool(model.mlps), batch_size=8)
        losses.append(mean_loss(model, ids))
    assert losses[0] == pytest.approx(losses[1], rel=5e-3)


def test_compact_models_keep_their_logits(architecture, ids):
    _, model = pair(architecture)
    model.prune(~some_mask(model.shape))
    with torch.no_grad():
        masked = model.model(ids.cuda()).logits
        small = model.compact().eval()
        removed = small(ids.cuda()).logits
    assert next(small.parameters()).is_cuda
    assert (masked - removed).abs().max() < 1e-4


@pytest.mark.parametrize("env_id", ["plasticity/Heads-v1", "plasticity/HeadEdit-v1", "plasticity/HeadRank-v1"])
def test_episodes_agree(small_text, env_id):
    played = []
    for device in ("cpu", "cuda"):
        env: Any = gym.make(env_id, text=small_text, **{**SMALL, "device": device})
        _, info = env.reset(seed=3)
        env.action_space.seed(3)
        found = [info["loss"]]
        for _ in range(2):
            _, reward, *_, info = env.step(env.action_space.sample())
            found += [info["loss"], float(reward)]
        played.append(found)
    np.testing.assert_allclose(played[0], played[1], rtol=5e-3, atol=1e-4)


def test_the_vector_environment_plays_on_from_what_it_remembers(small_text):
    """Moments that were noted while measuring lie beside gathered ones."""
    settings = {**SMALL, "text": small_text, "device": "cuda", "residual_signal": False, "horizon": 2}
    envs = gym.make_vec("plasticity/Heads-v1", num_envs=8, **settings)
    envs.reset(seed=5)
    for _ in range(8):
        _, rewards, *_ = envs.step(
            np.random.default_rng(0).choice(4, size=(8, envs.head_slots), p=[0.5, 0.3, 0.2, 0.0])
        )
        assert np.isfinite(rewards).all()


@pytest.mark.parametrize("repair", ["none", "bias", "scale", "least_squares"])
@pytest.mark.parametrize("memory_share", [0.02, 1.0])
def test_the_vector_environment_agrees_with_a_single_one(small_text, repair, memory_share):
    settings = {**SMALL, "text": small_text, "device": "cuda", "repair": repair}
    envs = gym.make_vec("plasticity/Heads-v1", num_envs=3, memory_share=memory_share, **settings)
    _, infos = envs.reset(seed=5)
    actions = np.random.default_rng(0).choice(4, size=(3, envs.head_slots), p=[0.5, 0.3, 0.2, 0.0])
    _, rewards, *_ = envs.step(actions)
    for index in range(3):
        env: Any = gym.make("plasticity/Heads-v1", **settings)
        _, info = env.reset(seed=5 + index)
        assert info["loss"] == pytest.approx(float(infos["loss"][index]), rel=1e-4)
        assert float(env.step(actions[index])[1]) == pytest.approx(float(rewards[index]), abs=1e-3)


def test_a_warm_start_imitates_a_rule():
    settings = {**SMALL, "device": "cuda", "max_length": 16, "calibration_blocks": 2, "reward_blocks": 2}
    stage = Stage(["bard-gpt2-4x4"], Settings(**settings), RankConfig(rounds="1", warm_start="fisher"))
    config = PPOConfig(total_timesteps=1, context="linear", head_features="fisher_rank,depth", device="cuda")
    ppo = RankPPO(stage, config)
    ppo._imitate("fisher", 2)
    fisher, depth = (ppo.network.linear.weight[PRUNE] - ppo.network.linear.weight[KEEP]).tolist()
    assert fisher < -abs(depth)


@pytest.mark.parametrize("mixed_precision", [False, True])
def test_a_model_learns(mixed_precision):
    model = load_model("bard-gpt2-4x4", device="cuda").model
    model.prune(~some_mask(model.shape))
    blocks = torch.randint(3, 1024, (16, 32), generator=torch.Generator().manual_seed(5))
    trainer = create_plasticity_trainer(
        model, blocks, batch_size=8, learning_rate=1e-3, mixed_precision=mixed_precision
    )
    steps = trainer.run(12)
    assert all(np.isfinite(step.loss) for step in steps)
    assert steps[-1].loss < steps[0].loss


def test_ppo_trains_with_model_and_network_on_the_device(small_text):
    envs = [gym.make("plasticity/Heads-v1", text=small_text, **{**SMALL, "device": "cuda"}) for _ in range(2)]
    config = PPOConfig(total_timesteps=16, num_steps=4, num_minibatches=2, update_epochs=2, device="cuda")
    trained = PPO(envs, config)
    before = trained.network.state_dict()["edits.weight"].clone()
    trained.train()
    assert not torch.equal(before.cpu(), trained.network.state_dict()["edits.weight"].cpu())


def test_the_step_benchmark_runs():
    options = Options(models="bard-gpt2-4x4", lengths="64", tokens=512, rounds=1, settings=Settings(device="cuda"))
    row = next(iter(step_rows(options)))
    assert row.step_over_floor > 0


@but(*HEADS_ONLY)
@pytest.mark.parametrize("order", ["token_fisher", "kfac"])
def test_neurons_have_the_same_prices(architecture, ids, order):
    found = [[ORDERS[order](sums) for sums in neuron_sums(model, ids)] for model in pair(architecture)]
    for a, b in zip(*found, strict=True):
        assert b.is_cuda
        assert torch.allclose(a, b.cpu(), rtol=2e-2, atol=1e-3 * float(a.max()))
