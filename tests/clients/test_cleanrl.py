"""CleanRL: its own ``ppo.py`` as it is, where ``CLEANRL_PPO`` names a copy, and a script in its manner."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Categorical

import plasticity_env  # noqa: F401
from tests.conftest import SMALL

SCRIPT = os.environ.get("CLEANRL_PPO", "")


@pytest.mark.parametrize("name", ["FlatHeadEdit-v1", "FlatRoute-v0"])
@pytest.mark.skipif(
    not SCRIPT, reason="CLEANRL_PPO names no copy of cleanrl/ppo.py, which is not on PyPI: github.com/vwxyzjn/cleanrl"
)
def test_the_script_itself_trains(name, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sizes = {"num-envs": 2, "num-steps": 16, "total-timesteps": 64, "num-minibatches": 2, "update-epochs": 2}
    command = [
        sys.executable,
        Path(SCRIPT).resolve(),
        "--env-id",
        f"plasticity_env:plasticity/{name}",
        "--no-cuda",
    ]
    command += [part for name, size in sizes.items() for part in (f"--{name}", str(size))]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("SPS:") == 2
    (events,) = tmp_path.rglob("events.*")
    log = EventAccumulator(str(events)).Reload()
    for name in ("losses/policy_loss", "losses/value_loss", "losses/entropy"):
        values = [scalar.value for scalar in log.Scalars(name)]
        assert len(values) == 2
        assert all(map(math.isfinite, values))


@pytest.mark.parametrize(("name", "settings"), [("HeadEdit-v1", SMALL), ("Route-v0", {})])
def test_ppo_over_sync_vector_env_updates_its_network(name, settings):
    def make_env():
        env = gym.make(f"plasticity/{name}", observation="flat", **settings)
        return gym.wrappers.RecordEpisodeStatistics(env)

    torch.manual_seed(0)
    envs, steps = gym.vector.SyncVectorEnv([make_env] * 2), 8
    (width,), actions = envs.single_observation_space.shape, envs.single_action_space.n
    actor, critic = nn.Linear(width, actions), nn.Linear(width, 1)
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=1e-3)
    seen, _ = envs.reset(seed=1)
    rows, returns = [], []
    for _ in range(steps):
        state = torch.tensor(seen)
        policy = Categorical(logits=actor(state).detach())
        action = policy.sample()
        seen, reward, terminated, truncated, infos = envs.step(action.numpy())
        rows.append((state, action, policy.log_prob(action), torch.tensor(reward, dtype=torch.float32)))
        if "episode" in infos:
            returns += infos["episode"]["r"][infos["_episode"]].tolist()
        assert terminated.shape == truncated.shape == (2,)
    assert len(returns) >= 2
    assert np.isfinite(returns).all()
    states, chosen, old, rewards = (torch.stack(column) for column in zip(*rows, strict=True))
    policy = Categorical(logits=actor(states))
    advantage = rewards - critic(states).squeeze(-1)
    ratio = (policy.log_prob(chosen) - old).exp()
    before = actor.weight.detach().clone()
    clipped = torch.min(ratio * advantage.detach(), ratio.clamp(0.8, 1.2) * advantage.detach())
    (advantage.square().mean() - clipped.mean() - 0.01 * policy.entropy().mean()).backward()
    optimizer.step()
    assert actor.weight.isfinite().all()
    assert not torch.equal(actor.weight, before)
