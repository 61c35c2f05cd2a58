"""Stable-Baselines3: PPO on dictionaries and flat observations, MaskablePPO with the environment's own masks."""

from __future__ import annotations

import gymnasium as gym
import pytest

import plasticity_env  # noqa: F401
from tests.conftest import SMALL

PPO = {"n_steps": 6, "batch_size": 3, "n_epochs": 1, "device": "cpu", "seed": 0}


@pytest.mark.parametrize(("policy", "observation"), [("MultiInputPolicy", "dict"), ("MlpPolicy", "flat")])
@pytest.mark.parametrize(
    "env_id", ["plasticity/Heads-v1", "plasticity/HeadEdit-v1", "plasticity/HeadRank-v1", "plasticity/Route-v0"]
)
def test_ppo_learns_saves_and_loads(env_id, policy, observation, tmp_path):
    sb3 = pytest.importorskip(
        "stable_baselines3", reason="Stable-Baselines3 is not installed: make clients installs it"
    )
    env = gym.make(env_id, observation=observation, **({"probes": 1} if "Route" in env_id else SMALL))
    agent = sb3.PPO(policy, env, **PPO).learn(6)
    agent.save(tmp_path / "agent.zip")
    again = sb3.PPO.load(tmp_path / "agent.zip", device="cpu")
    seen, _ = env.reset(seed=0)
    assert (again.predict(seen, deterministic=True)[0] == agent.predict(seen, deterministic=True)[0]).all()


@pytest.mark.parametrize("env_id", ["plasticity/Heads-v1", "plasticity/HeadEdit-v1"])
def test_maskable_ppo_chooses_only_what_the_mask_allows(env_id):
    contrib = pytest.importorskip("sb3_contrib", reason="sb3-contrib is not installed: make clients installs it")
    env = gym.make(env_id, observation="flat", **SMALL)
    agent = contrib.MaskablePPO("MlpPolicy", env, **PPO).learn(6)
    seen, _ = env.reset(seed=0)
    for _ in range(SMALL["horizon"]):
        action, _ = agent.predict(seen, action_masks=env.unwrapped.action_masks())
        seen, _, terminated, _, info = env.step(action)
        assert info["invalid_actions"] == 0
        if terminated:
            break
