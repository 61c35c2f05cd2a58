"""Stable-Baselines3 on a native vector environment: the same transitions as one by one, and unmodified agents learn."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import DQN, PPO

from plasticity_env import InputError
from plasticity_env.agents.benchmarks.bench_route import bench_route
from plasticity_env.agents.sb3.native_vec_env import NativeVecEnv
from tests.plasticity_env.envs.route_tables import made_table

TABLE = made_table()


def native(count=4, **settings) -> NativeVecEnv:
    return NativeVecEnv(gym.make_vec("plasticity/Route-v0", num_envs=count, table=TABLE, **settings))


def test_transitions_are_those_of_dummy_vec_env():
    from stable_baselines3.common.env_util import make_vec_env

    settings = {"table": TABLE, "observation": "flat", "probes": 1}
    theirs = make_vec_env("plasticity/Route-v0", n_envs=3, env_kwargs=settings)
    mine = native(3, observation="flat", probes=1)
    for envs in (theirs, mine):
        envs.seed(4)
    assert np.array_equal(mine.reset(), theirs.reset())
    random = np.random.default_rng(0)
    for _ in range(10):
        actions = random.integers(0, mine.action_space.n, 3)
        seen, rewards, done, infos = mine.step(actions)
        expected = theirs.step(actions)
        assert np.array_equal(seen, expected[0])
        assert np.array_equal(rewards, expected[1])
        assert np.array_equal(done, expected[2])
        for info, their in zip(infos, expected[3], strict=True):
            if "terminal_observation" in their:
                assert np.array_equal(info["terminal_observation"], their["terminal_observation"])
                assert (info["episode"]["r"], info["episode"]["l"]) == pytest.approx(
                    (their["episode"]["r"], their["episode"]["l"]), abs=1e-5
                )
        assert np.array_equal(mine.env_method("action_masks"), theirs.env_method("action_masks"))


@pytest.mark.parametrize(("policy", "observation"), [("MlpPolicy", "flat"), ("MultiInputPolicy", "dict")])
def test_ppo_and_dqn_learn_on_it(policy, observation, tmp_path):
    envs = native(observation=observation)
    seen = envs.reset()
    agent = PPO(policy, envs, n_steps=4, batch_size=8, n_epochs=1, device="cpu", seed=0).learn(16)
    agent.save(tmp_path / "agent.zip")
    again = PPO.load(tmp_path / "agent.zip", device="cpu")
    assert np.array_equal(again.predict(seen, deterministic=True)[0], agent.predict(seen, deterministic=True)[0])
    q_agent = DQN(policy, native(observation=observation), learning_starts=8, buffer_size=64, device="cpu", seed=0)
    q_agent.learn(32)
    assert q_agent.predict(seen)[0].shape == (4,)


def test_maskable_ppo_makes_only_probes_that_are_allowed():
    contrib = pytest.importorskip(
        "sb3_contrib", reason="sb3-contrib is not installed: pip install 'plasticity-env[rl]'"
    )
    envs = native(observation="flat", probes=2)
    agent = contrib.MaskablePPO("MlpPolicy", envs, n_steps=8, batch_size=16, n_epochs=1, device="cpu", seed=0).learn(32)
    env = gym.make("plasticity/Route-v0", table=TABLE, observation="flat", probes=2)
    for seed in range(5):
        seen, _ = env.reset(seed=seed)
        terminated = False
        while not terminated:
            action, _ = agent.predict(seen, action_masks=env.unwrapped.action_masks())
            seen, _, terminated, _, info = env.step(action)
        assert info["invalid_actions"] == 0


def test_other_ways_to_reset_and_settings_of_single_environments_are_refused():
    with pytest.raises(InputError, match="resets in the same step"):
        NativeVecEnv(gym.make_vec("plasticity/Route-v0", num_envs=2, table=TABLE, autoreset_mode="NextStep"))
    envs = native()
    with pytest.raises(InputError, match="'settings' cannot be set"):
        envs.set_attr("settings", None)
    assert envs.get_attr("num_envs", [0, 2]) == [4, 4]
    assert envs.env_is_wrapped(gym.Wrapper) == [False] * 4


def test_the_benchmark_has_its_figures():
    row = bench_route(4, probes=1, rounds=1)
    assert row.decisions > 0
    assert row.over_single_range[0] <= row.over_single <= row.over_single_range[1]
    assert 0 < row.step_share < 1
    assert row.columns == gym.make("plasticity/Route-v0", observation="flat", probes=1).observation_space.shape[0]
