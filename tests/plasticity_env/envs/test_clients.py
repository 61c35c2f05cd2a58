"""What clients of other libraries ask of an environment: flat observations, Python's own errors, numbers in any wrapping."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from plasticity_env.common.errors import InputError
from plasticity_env.envs.observation import NETWORK_GLOBAL_FEATURES, NETWORK_HEAD_FEATURES, global_value, head_column
from tests.conftest import SMALL

IDS = ["plasticity/Heads-v1", "plasticity/HeadEdit-v1", "plasticity/HeadRank-v1"]


@pytest.mark.parametrize("env_id", IDS)
def test_flat_observations_are_the_networks_columns_in_order(env_id):
    wide, flat = gym.make(env_id, **SMALL), gym.make(env_id, observation="flat", **SMALL)
    seen, vector = wide.reset(seed=0)[0], flat.reset(seed=0)[0]
    heads = np.stack([head_column(seen, name) for name in NETWORK_HEAD_FEATURES], axis=1)
    globals_ = [global_value(seen, name) for name in NETWORK_GLOBAL_FEATURES]
    assert np.array_equal(vector, np.concatenate([heads.ravel(), globals_, seen["action_mask"].ravel()]).astype("f"))
    space = flat.observation_space
    assert space.contains(vector)
    assert np.abs([space.low, space.high]).max() <= 16
    check_env(flat.unwrapped, skip_render_check=True)
    by_name = gym.make(env_id.replace("/", "/Flat"), **SMALL)
    assert by_name.observation_space == space
    assert np.array_equal(by_name.reset(seed=0)[0], vector)


@pytest.mark.parametrize("env_id", IDS)
def test_native_vector_environments_show_the_same_flat(env_id):
    envs, single = gym.make_vec(env_id, 2, observation="flat", **SMALL), gym.make(env_id, observation="flat", **SMALL)
    assert type(envs.unwrapped).__name__.endswith("VectorEnv")
    seen, expected = envs.reset(seed=4)[0], single.reset(seed=4)[0]
    assert envs.observation_space.contains(seen)
    np.testing.assert_allclose(seen[0], expected, rtol=1e-3, atol=1e-3)
    assert envs.unwrapped.autoreset_mode is AutoresetMode.NEXT_STEP


def test_single_edits_in_a_batch_equal_single_environments():
    settings = {**SMALL, "horizon": 3}
    envs = gym.make_vec("plasticity/HeadEdit-v1", 3, **settings)
    singles = [gym.make("plasticity/HeadEdit-v1", **settings) for _ in range(3)]
    envs.reset(seed=7)
    for seed, env in enumerate(singles, 7):
        env.reset(seed=seed)
    for actions in ([1, 4, 5], [2, 0, 17]):  # prune; the second stops; the third asks to revive
        _, rewards, done, _, infos = envs.step(np.array(actions))
        expected = [env.step(action) for env, action in zip(singles, actions, strict=True)]
        assert rewards == pytest.approx([each[1] for each in expected], abs=1e-4)
        assert done.tolist() == [each[2] for each in expected]
        assert infos["active_heads"].tolist() == [each[4]["active_heads"] for each in expected]
    assert done.tolist() == [False, True, False]


@pytest.mark.parametrize("wrap", [int, np.int64, lambda n: np.array([n]), lambda n: torch.tensor(n), lambda n: [n]])
def test_a_single_number_may_come_in_any_wrapping(wrap):
    env = gym.make("plasticity/HeadEdit-v1", **SMALL).unwrapped
    env.reset(seed=0)
    assert env.step(wrap(3))[4]["active_heads"] == 15


@pytest.mark.parametrize("make", [gym.make, lambda name, **kwargs: gym.make_vec(name, 2, **kwargs)])
def test_an_argument_that_there_is_not_is_also_a_type_error(make):
    with pytest.raises(TypeError, match="unexpected keyword argument 'frameskip'") as caught:
        make("plasticity/Heads-v1", frameskip=1)
    assert isinstance(caught.value, InputError)
    with pytest.raises(InputError, match=r"unknown observation 'flta' \(did you mean 'flat'\?\)"):
        make("plasticity/Heads-v1", observation="flta")
