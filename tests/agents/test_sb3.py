"""The same network under Stable-Baselines3."""

from __future__ import annotations

import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.env_checker import check_env

from plasticity_env import InputError, controllers
from plasticity_env.agents.ppo.ppo_config import PPOConfig
from plasticity_env.agents.ppo.rank_config import RankConfig
from plasticity_env.agents.sb3 import sb3
from plasticity_env.agents.training.train_config import TrainConfig
from plasticity_env.agents.training.train_run import train
from tests.conftest import SMALL, filled

CONFIG = PPOConfig(total_timesteps=16, num_steps=4, num_minibatches=2, update_epochs=1)


def make(env_id="plasticity/Heads-v1", **kwargs):
    return gym.make(env_id, **{**SMALL, "repair": "none", "obs_signal": False, "residual_signal": False, **kwargs})


@pytest.mark.parametrize("env_id", ["plasticity/Heads-v1", "plasticity/HeadEdit-v1"])
@pytest.mark.parametrize("maskable", [False, True])
def test_training_changes_the_network_and_gives_a_controller(env_id, maskable, tmp_path):
    algorithm = sb3.build([make(env_id), make(env_id, model_name="bard-llama-4x8")], CONFIG, maskable=maskable)
    network = algorithm.policy.features_extractor.network
    before = {key: value.clone() for key, value in network.state_dict().items()}
    seen = []
    algorithm.learn(16, callback=sb3.Report(lambda step, metrics: seen.append((step, metrics))))
    assert any(not torch.equal(before[key], value) for key, value in network.state_dict().items())
    sb3.controller_of(algorithm).save(tmp_path)
    controller = controllers.load(tmp_path)
    for name in ("bard-gpt2-4x4", "bard-llama-4x8"):  # one checkpoint for models of any size
        env = make(env_id, model_name=name)
        observation, _ = env.reset(seed=0)
        assert env.action_space.contains(controller.act(observation))


@pytest.mark.parametrize("env_id", ["plasticity/Heads-v1", "plasticity/HeadEdit-v1"])
def test_sb3_and_our_controller_decide_alike(env_id):
    env = make(env_id)
    algorithm = sb3.build([env], CONFIG, capacity=20)
    controller = sb3.controller_of(algorithm)
    observation, _ = env.reset(seed=0)
    padded = sb3.PadHeads(make(env_id), 20)
    wide, _ = padded.reset(seed=0)
    action, _ = algorithm.predict(wide, deterministic=True)
    ours = controller.act(observation)
    from plasticity_env.agents.ppo.padding import environment_action

    theirs = environment_action(np.atleast_1d(action), 16, 20, env_id.endswith("HeadEdit-v1"))
    assert np.array_equal(theirs, ours)


@pytest.mark.parametrize("env_id", ["plasticity/Heads-v1", "plasticity/HeadEdit-v1"])
def test_padded_environments_pass_sb3s_checker(env_id):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=r".*unconventional shape.*")
        check_env(sb3.PadHeads(make(env_id), 20))


@pytest.mark.parametrize("env_id", ["plasticity/Heads-v1", "plasticity/HeadEdit-v1"])
def test_padded_masks_allow_the_same_actions(env_id):
    env, padded = make(env_id), sb3.PadHeads(make(env_id), 20)
    env.reset(seed=0)
    padded.reset(seed=0)
    wide, plain = padded.action_masks(), env.unwrapped.action_masks()
    if env_id.endswith("Heads-v1"):
        assert (wide[: 16 * 4] == plain).all()
        assert (wide[16 * 4 :].reshape(4, 4) == [True, False, False, False]).all()
    else:
        assert wide.sum() == plain.sum()


def test_a_model_beyond_the_capacity_is_refused():
    with pytest.raises(InputError, match=r"16 heads.*at most 8.*--capacity 16"):
        sb3.PadHeads(make(), 8)


def make_rank(**kwargs):
    return make("plasticity/HeadRank-v1", **{"horizon": 2, "pruned_share": 0.4, **kwargs})


@pytest.mark.parametrize("context", ["deep_sets", "linear"])
def test_ppo_learns_to_rank_and_gives_a_controller(context, tmp_path):
    config = PPOConfig(**{**CONFIG.__dict__, "context": context})
    algorithm = sb3.build([make_rank(), make_rank(model_name="bard-llama-4x8")], config)
    before = {key: value.clone() for key, value in algorithm.policy.state_dict().items()}
    algorithm.learn(16)
    after = algorithm.policy.state_dict()
    assert any(not torch.equal(before[key], after[key]) for key in after if "network" in key)
    assert after["log_std"].shape == (1,)
    controller = sb3.controller_of(algorithm)
    env = make_rank(model_name="bard-llama-4x8")
    observation, _ = env.reset(seed=0)
    padded = sb3.PadHeads(make_rank(), 32)
    wide, _ = padded.reset(seed=0)
    scores, _ = algorithm.predict(wide, deterministic=True)
    plain, _ = make_rank().reset(seed=0)
    assert (scores[:16].argsort() == controller.act(plain).argsort()).all()
    assert env.action_space.contains(controller.act(observation))


def test_scores_far_out_keep_their_order_and_padding_is_cut_off():
    padded, env = sb3.PadHeads(make_rank(horizon=1), 20), make_rank(horizon=1)
    padded.reset(seed=0)
    env.reset(seed=0)
    scores = np.random.default_rng(0).permutation(20).astype(np.float32) * 3
    assert padded.action_space.contains(scores)
    padded.step(scores)
    env.step(scores[:16])
    assert torch.equal(padded.unwrapped.model.active, env.unwrapped.model.active)


def test_maskable_ppo_is_refused_where_actions_are_scores():
    with pytest.raises(InputError, match=r"masks choices.*use PPO"):
        sb3.build([make_rank()], CONFIG, maskable=True)


def test_a_reference_that_needs_what_is_not_measured_is_refused_before_there_is_a_folder(tmp_path):
    folder = tmp_path / "run"
    small = {"calibration_blocks": 2, "reward_blocks": 2, "max_length": 16, "envs_per_model": 1, "obs_signal": False}
    config = filled(
        TrainConfig,
        agent="sb3_ppo",
        env="head_rank",
        ppo=CONFIG,
        rank=RankConfig(reference="obs"),
        output_dir=folder,
        **small,
    )
    with pytest.raises(InputError, match="does not measure 'obs'"):
        train(config)
    assert not folder.exists()
