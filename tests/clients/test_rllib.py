"""RLlib: `PPOConfig().environment(id, env_config={"observation": "flat"})` trains one iteration, without an env creator."""

from __future__ import annotations

import math

import pytest

from tests.conftest import SMALL

pytest.importorskip("ray.rllib", reason="Ray's RLlib is not installed: make clients installs it")


@pytest.mark.parametrize(("name", "settings"), [("Heads-v1", SMALL), ("Route-v0", {"probes": 1})])
def test_ppo_trains_by_the_environments_name(name, settings):
    import ray
    from ray.rllib.algorithms.ppo import PPOConfig

    config = (
        PPOConfig()
        .environment(f"plasticity_env:plasticity/{name}", env_config={"observation": "flat", **settings})
        .env_runners(num_env_runners=0)
        .training(train_batch_size=6, minibatch_size=3, num_epochs=1)
    )
    algorithm = config.build_algo()
    try:
        sampled = algorithm.train()["env_runners"]
        assert sampled["num_env_steps_sampled"] >= 6
        assert math.isfinite(sampled["episode_return_mean"])
    finally:
        algorithm.stop()
        ray.shutdown()
