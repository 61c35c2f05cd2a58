"""Columns of the observation that compare units with their layer, layers with each other, and now with then."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from plasticity_env import InputError, validate
from plasticity_env.envs.head_tokens import HeadState, head_tokens
from plasticity_env.envs.observation import DRIFT_BOUND, Observation, head_column, head_columns
from tests.conftest import SMALL

LAYER = ("layer_fisher_rank", "layer_residual_rank", "layer_mean_z")


class Signals:
    """Only what tokens are made of; every signal (L, U)."""

    obs = None

    def __init__(self, **values):
        self._values = values

    def __getattr__(self, name):
        return self._values.get(name, torch.ones(self._values["fisher"].shape))


def columns(active, fisher, residual, heads, first=None, names=LAYER, hide=False):
    state = HeadState(
        active[None], active[None].float(), np.zeros((1, *active.shape)), active[None].float(), 1, heads, first
    )
    tokens = head_tokens(state, [Signals(fisher=fisher, residual_fisher=residual)], hide_pruned=hide)[0]
    return [tokens[:, column].reshape(active.shape) for column in head_columns(names)]


@pytest.mark.parametrize("heads", [4, 3])  # of 4 units a layer: none or one is a block of neurons
def test_layer_columns_equal_brute_force(heads):
    random = torch.Generator().manual_seed(heads)
    active = torch.rand(5, 4, generator=random) > 0.3
    active[0], active[1] = True, False
    fisher, residual = torch.rand(2, 5, 4, generator=random)
    residual = residual * active  # what is pruned has none
    ranks, residual_ranks, means = columns(active, fisher, residual, heads)
    for part in (range(heads), range(heads, 4)):
        logs = {}
        for layer in range(5):
            kept = [unit for unit in part if active[layer, unit]]
            for found, values in ((ranks, fisher), (residual_ranks, residual)):
                for unit in part:
                    below = sum(float(values[layer, other] < values[layer, unit]) for other in kept)
                    expected = min(1.0, below / (len(kept) - 1)) if len(kept) > 1 else 0.0
                    assert found[layer, unit] == pytest.approx(expected)
            if kept:
                logs[layer] = np.mean([np.log(float(residual[layer, unit])) for unit in kept])
        mean, spread = np.mean(list(logs.values()) or [0.0]), np.std(list(logs.values()) or [0.0])
        for layer in range(5):
            expected = (logs[layer] - mean) / (spread + 1e-6) if layer in logs and len(logs) > 1 else 0.0
            assert means[layer, list(part)] == pytest.approx(np.full(len(part), expected), abs=1e-5)


@pytest.mark.parametrize("heads", [4, 3])
def test_scores_per_flop_and_in_the_layer_equal_brute_force(heads):
    random = torch.Generator().manual_seed(heads)
    active = torch.rand(5, 4, generator=random) > 0.3
    active[0], active[1] = True, False
    fluctuation, gradient, residual, cost = torch.rand(4, 5, 4, generator=random).double()
    state = HeadState(active[None], active[None].float(), np.zeros((1, 5, 4)), cost[None], 1, heads)
    signals = Signals(fisher=gradient, fluctuation=fluctuation, gradient=gradient, residual_fisher=residual)
    tokens = head_tokens(state, [signals], hide_pruned=False)[0]
    names = ("layer_fluctuation_z", "gradient_per_flop_z", "residual_fisher_per_flop_z")
    layered, *dear = (tokens[:, column].reshape(5, 4) for column in head_columns(names))
    for layer in range(5):
        for part in (range(heads), range(heads, 4)):
            mine = [float(fluctuation[layer, unit]) for unit in part if active[layer, unit]]
            for unit in part:
                enough = len(mine) > 1
                expected = (float(fluctuation[layer, unit]) - np.mean(mine)) / np.std(mine) if enough else 0.0
                assert layered[layer, unit] == pytest.approx(np.clip(expected, -5, 5), abs=1e-5)
    for found, score in zip(dear, (gradient, residual), strict=True):
        logs = (score / cost).log().numpy()
        kept = logs[active.numpy()]
        assert found == pytest.approx(np.clip((logs - kept.mean()) / kept.std(), -5, 5), abs=1e-4)


def test_drift_is_the_clipped_log_ratio_to_the_start():
    active = torch.tensor([[True, True, True, False]])
    now, first = torch.tensor([[1.0, 3.0, 1e9, 2.0]]), torch.tensor([[[2.0, 1.0, 1.0, 0.0]]])
    (drift,) = columns(active, now, now, 4, first, ("sensitivity_drift",))
    assert drift[0] == pytest.approx([np.log(0.5), np.log(3), DRIFT_BOUND, 0.0])
    (drift,) = columns(active, now, now, 4, None, ("sensitivity_drift",))
    assert (drift == 0).all()
    (drift,) = columns(active, now, now, 4, torch.ones(1, 1, 4), ("sensitivity_drift",), hide=True)
    assert drift[0, 3] == 0  # compressed: what is pruned is not seen


@pytest.mark.parametrize("kept", [1, 2, 7, 20])
def test_a_signed_signal_is_in_units_of_its_root_mean_square_over_the_active_units(kept):
    random = torch.Generator().manual_seed(kept)
    active = torch.zeros(20, dtype=torch.bool)
    active[torch.randperm(20, generator=random)[:kept]] = True
    active, gradient = active.view(5, 4), torch.randn(5, 4, generator=random).double()
    state = HeadState(active[None], active[None].float(), np.zeros((1, 5, 4)), active[None].float(), 1, 4)
    tokens = head_tokens(state, [Signals(fisher=gradient.square(), gate_gradient=gradient)], hide_pruned=False)[0]
    found = tokens[:, head_columns(("gate_gradient_z",))[0]].reshape(5, 4)
    expected = gradient / gradient[active].square().mean().sqrt()
    assert found == pytest.approx(expected.clamp(-5, 5).numpy(), rel=1e-5)


@pytest.mark.parametrize(("name", "way"), [("gate_gradient", True), ("fishers", False)])
def test_a_column_that_is_not_there_is_refused_with_the_way_out_where_there_is_one(name, way):
    shown = Observation("heads", {"heads": np.zeros((4, 60))})
    with pytest.raises(InputError, match=f"unknown column of the observation {name!r}") as refused:
        head_column(shown, name)
    assert str(refused.value).endswith(f"; make the environment with signals=({name!r},)") == way


LEAN = {"obs_signal": False, "residual_signal": True, "crossfit_signal": False}


@pytest.fixture
def make(small_text):
    def build(**settings):
        settings = {"text": small_text, "disable_env_checker": True, **SMALL, **LEAN, "pruned_share": 0.5, **settings}
        return gym.make("plasticity/HeadRank-v1", **settings).unwrapped

    return build


def column(observation, name):
    return observation["heads"][..., head_columns((name,))[0]]


@pytest.mark.parametrize("settings", [{}, {"units": "heads+mlp", "mlp_blocks": 2, "mode": "compressed"}])
def test_drift_in_an_episode_is_exact_through_states_forks_and_replays(make, settings):
    env = make(**settings)
    start, _ = env.reset(seed=1)
    assert (column(start, "sensitivity_drift") == 0).all()
    random = np.random.default_rng(0)
    scores = random.uniform(-1, 1, (3, env.head_slots)).astype(np.float32)
    env.step(scores[0])
    state, fork = env.get_state(), env.fork()
    seen = [env.step(row)[0] for row in scores[1:]]
    kept = column(seen[-1], "active") > 0.5
    now, then = column(seen[-1], "fisher")[kept].astype(np.float64), column(start, "fisher")[kept].astype(np.float64)
    expected = np.clip(np.log(now / then), -DRIFT_BOUND, DRIFT_BOUND)
    np.testing.assert_allclose(column(seen[-1], "sensitivity_drift")[kept], expected, atol=1e-5)
    assert np.abs(expected).max() > 0.05
    record = env.episode_record()
    for again in (fork, env):
        if again is env:
            again.set_state(state)
        for row, before in zip(scores[1:], seen, strict=True):
            after = again.step(row)[0]
            assert all(np.array_equal(after[name], before[name]) for name in before)
    assert validate(record, env=make(**settings)) == pytest.approx(record.rewards, abs=1e-6)
    env.reset(seed=2)
    assert (column(env.step(scores[0])[0], "sensitivity_drift") != 0).any()


def test_vector_environment_restarts_the_drift_of_each_episode(make, small_text):
    settings = {**SMALL, "pruned_share": 0.5, "horizon": 2, **LEAN}
    envs = gym.make_vec("plasticity/HeadRank-v1", num_envs=2, text=small_text, autoreset_mode="Disabled", **settings)
    single = make(horizon=2)
    envs.reset(seed=[3, 4])
    scores = np.random.default_rng(1).uniform(-1, 1, (2, 16)).astype(np.float32)
    first, *_ = envs.step(scores)
    fresh, _ = envs.reset(seed=[None, 9], options={"reset_mask": np.array([False, True])})
    assert (column(fresh, "sensitivity_drift")[1] == 0).all()
    np.testing.assert_array_equal(column(fresh, "sensitivity_drift")[0], column(first, "sensitivity_drift")[0])
    after, *_ = envs.step(scores)
    for index, seed, rows in ((0, 3, [0, 0]), (1, 9, [1])):
        single.reset(seed=seed)
        for row in rows:
            expected, *_ = single.step(scores[row])
        for name in (*LAYER, "sensitivity_drift", "fluctuation", "fluctuation_z"):
            np.testing.assert_allclose(
                column(after, name)[index], column(expected, name), atol=2e-3, rtol=2e-3, err_msg=name
            )
