"""tianshou: its PPO trains on flat observations."""

from __future__ import annotations

import gymnasium as gym
import pytest
import torch

import plasticity_env  # noqa: F401
from tests.conftest import SMALL

pytest.importorskip("tianshou", reason="tianshou is not installed: make clients installs it")


def test_ppo_trains():
    from tianshou.algorithm import PPO
    from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.data import Collector, VectorReplayBuffer
    from tianshou.env import DummyVectorEnv
    from tianshou.trainer import OnPolicyTrainerParams
    from tianshou.utils.net.common import Net
    from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic

    def make():
        return gym.make("plasticity/HeadEdit-v1", observation="flat", **SMALL)

    env = make()
    net = Net(state_shape=env.observation_space.shape, hidden_sizes=[16])
    actor = DiscreteActor(preprocess_net=net, action_shape=env.action_space.n)
    policy = ProbabilisticActorPolicy(
        actor=actor, dist_fn=torch.distributions.Categorical, action_space=env.action_space, action_scaling=False
    )
    ppo = PPO(policy=policy, critic=DiscreteCritic(preprocess_net=net), optim=AdamOptimizerFactory(lr=1e-3))
    training = Collector(ppo, DummyVectorEnv([make] * 2), VectorReplayBuffer(24, 2))
    test = Collector(ppo, DummyVectorEnv([make]))
    settings = {
        "max_epochs": 1,
        "epoch_num_steps": 12,
        "collection_step_num_env_steps": 12,
        "test_step_num_episodes": 1,
    }
    result = ppo.run_training(
        OnPolicyTrainerParams(
            training_collector=training, test_collector=test, update_step_num_repetitions=1, batch_size=6, **settings
        )
    )
    assert result.train_step >= 12
    assert result.update_step == 1
