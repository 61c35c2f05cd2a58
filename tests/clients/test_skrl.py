"""skrl: its wrapper takes single and native vector environments, and its PPO trains on a flat one."""

from __future__ import annotations

import gymnasium as gym
import pytest
import torch

import plasticity_env  # noqa: F401
from tests.conftest import SMALL

pytest.importorskip("skrl", reason="skrl is not installed: make clients installs it")
IDS = ["plasticity/Heads-v1", "plasticity/HeadEdit-v1", "plasticity/HeadRank-v1"]


@pytest.mark.parametrize("observation", ["dict", "flat"])
@pytest.mark.parametrize("env_id", IDS)
def test_wrap_env_recognises_single_and_vector_environments(env_id, observation):
    from skrl.envs.wrappers.torch import wrap_env

    for env in (
        gym.make(env_id, observation=observation, **SMALL),
        gym.make_vec(env_id, 2, observation=observation, **SMALL),
    ):
        wrapped = wrap_env(env)
        first, _ = wrapped.reset()
        action = torch.as_tensor(wrapped.action_space.sample()).reshape(1, -1).expand(wrapped.num_envs, -1)
        seen, rewards, *_ = wrapped.step(action)
        assert seen.shape == first.shape
        assert rewards.shape == (wrapped.num_envs, 1)
        assert rewards.isfinite().all()


def test_ppo_trains(tmp_path):
    from skrl.agents.torch.ppo import PPO, PPO_CFG
    from skrl.envs.wrappers.torch import wrap_env
    from skrl.memories.torch import RandomMemory
    from skrl.models.torch import CategoricalMixin, DeterministicMixin, Model
    from skrl.trainers.torch import SequentialTrainer

    env = wrap_env(gym.make_vec("plasticity/HeadEdit-v1", 2, observation="flat", **SMALL))
    spaces = {"observation_space": env.observation_space, "action_space": env.action_space, "device": env.device}

    class Policy(CategoricalMixin, Model):
        def __init__(self):
            Model.__init__(self, **spaces)
            CategoricalMixin.__init__(self)
            self.net = torch.nn.Linear(self.num_observations, self.num_actions)

        def compute(self, inputs, role):
            return self.net(inputs["observations"]), {}

    class Value(DeterministicMixin, Model):
        def __init__(self):
            Model.__init__(self, **spaces)
            DeterministicMixin.__init__(self)
            self.net = torch.nn.Linear(self.num_observations, 1)

        def compute(self, inputs, role):
            return self.net(inputs["observations"]), {}

    models = {"policy": Policy(), "value": Value()}
    before = models["policy"].net.weight.detach().clone()
    config = PPO_CFG(rollouts=6, learning_epochs=1, mini_batches=2)
    config.experiment.directory, config.experiment.write_interval, config.experiment.checkpoint_interval = (
        str(tmp_path),
        0,
        0,
    )
    agent = PPO(models=models, memory=RandomMemory(memory_size=6, num_envs=2), cfg=config, **spaces)
    SequentialTrainer(
        cfg={"timesteps": 6, "headless": True, "disable_progressbar": True, "close_environment_at_exit": False},
        env=env,
        agents=agent,
    ).train()
    after = models["policy"].net.weight
    assert after.isfinite().all()
    assert not torch.equal(after, before)
