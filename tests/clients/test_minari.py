"""Minari: its collector writes data sets of episodes, which replay to the same rewards."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

import plasticity_env  # noqa: F401
from tests.conftest import SMALL

minari = pytest.importorskip("minari", reason="Minari is not installed: make clients installs it")
IDS = ["plasticity/Heads-v1", "plasticity/HeadEdit-v1", "plasticity/HeadRank-v1"]


@pytest.mark.parametrize("observation", ["dict", "flat"])
@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.filterwarnings("ignore:.*is set to None:UserWarning")
def test_collected_episodes_replay(env_id, observation, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env = minari.DataCollector(gym.make(env_id, observation=observation, **SMALL))
    env.action_space.seed(0)
    for seed in range(2):
        env.reset(seed=seed)
        done = False
        while not done:
            *_, terminated, truncated, _ = env.step(env.action_space.sample())
            done = terminated or truncated
    collected = env.create_dataset("plasticity/random-v0", algorithm_name="random", code_permalink="none")
    assert collected.total_episodes == 2
    again = collected.recover_environment()
    for episode in collected.iterate_episodes():
        seen, _ = again.reset(seed=int(episode.seed) if hasattr(episode, "seed") else int(episode.id))
        first = episode.observations["heads"][0] if observation == "dict" else episode.observations[0]
        assert np.array_equal(first, seen["heads"] if observation == "dict" else seen)
        rewards = [again.step(action)[1] for action in episode.actions]
        assert rewards == pytest.approx(episode.rewards.tolist(), abs=1e-5)
