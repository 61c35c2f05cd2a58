"""The native vector environment of Route-v0: N single ones, by look-ups alone."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from plasticity_env import InputError
from tests.plasticity_env.envs.route_tables import made_table

ID = "plasticity/Route-v0"
TABLE = made_table()
VARIANTS = [{}, {"probes": 2, "observation": "flat"}, {"budget": "kv_cache"}]


def rows(seen, index):
    return {name: part[index] for name, part in seen.items()} if isinstance(seen, dict) else seen[index]


def equal(first, second):
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)
    return np.array_equal(first, second)


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_is_single_environments_with_the_same_seeds_and_actions(variant):
    envs = gym.make_vec(ID, num_envs=3, table=TABLE, **variant)
    assert type(envs.unwrapped).__name__ == "RouteVectorEnv"
    assert envs.unwrapped.autoreset_mode is AutoresetMode.SAME_STEP
    singles = [gym.make(ID, table=TABLE, disable_env_checker=True, **variant) for _ in range(3)]
    seen, infos = envs.reset(seed=5)
    shown = [env.reset(seed=5 + index) for index, env in enumerate(singles)]
    assert envs.observation_space.contains(seen)
    assert all(equal(rows(seen, index), each) for index, (each, _) in enumerate(shown))
    assert infos["text"].tolist() == [info["text"] for _, info in shown]
    random, ended = np.random.default_rng(0), 0
    for _ in range(12):
        actions = random.integers(0, envs.single_action_space.n, 3)
        seen, rewards, done, truncated, infos = envs.step(actions)
        assert not truncated.any()
        for index, env in enumerate(singles):
            last, reward, terminated, _, info = env.step(actions[index])
            assert (reward, terminated) == (rewards[index], done[index])
            if terminated:
                ended += 1
                assert equal(infos["final_obs"][index], last)
                final = infos["final_info"]
                assert {name: final[name][index].item() for name in info} == info
                assert final["_loss"][index]
                last, info = env.reset()
            assert equal(rows(seen, index), last)
            assert infos["text"][index] == info["text"]
    assert ended >= 12


def test_next_step_and_disabled_autoreset():
    envs = gym.make_vec(ID, num_envs=2, table=TABLE, autoreset_mode="NextStep")
    envs.reset(seed=0)
    _, first, done, _, infos = envs.step(np.array([1, 2]))
    assert done.all()
    assert infos["structure"].tolist() == [1, 2]
    _, rewards, done, _, infos = envs.step(np.array([3, 3]))  # ignored
    assert first.any()
    assert not rewards.any()
    assert not done.any()
    assert "structure" not in infos
    envs = gym.make_vec(ID, num_envs=2, table=TABLE, autoreset_mode=AutoresetMode.DISABLED, probes=1)
    envs.reset(seed=0)
    _, _, done, _, infos = envs.step(np.array([1, 9 + 1]))
    assert done.tolist() == [True, False]
    assert infos["_structure"].tolist() == [True, False]
    with pytest.raises(gym.error.ResetNeeded, match=r"\[0\]"):
        envs.step(np.array([1, 1]))
    before = envs.unwrapped.action_masks()
    envs.reset(options={"reset_mask": np.array([True, False])})
    after = envs.unwrapped.action_masks()
    assert np.array_equal(before[1], after[1])  # its probe is remembered
    assert envs.step(np.array([1, 1]))[2].all()


def test_seeds_may_be_one_for_each_and_options_are_for_all():
    envs = gym.make_vec(ID, num_envs=2, table=TABLE)
    texts = envs.reset(seed=[7, 7])[1]["text"]
    assert texts[0] == texts[1]
    infos = envs.reset(seed=0, options={"text": 3, "flop_price": 2.0})[1]
    assert infos["text"].tolist() == [3, 3]
    assert infos["flop_price"] == pytest.approx([2.0, 2.0])
    assert envs.step(np.array([0, 0]))[4]["final_info"]["text"].tolist() == [3, 3]


def test_a_step_calls_nothing_of_torch():
    """The names that a step's code asks for hold no torch but in the check of what an action is."""
    from plasticity_env.envs import route_board, route_episodes, route_vector

    for module in (route_board, route_episodes, route_vector):
        assert not any(getattr(value, "__name__", "").startswith("torch") for value in vars(module).values())


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"num_envs": 0}, "num_envs must be a whole number of at least 1"),
        ({"autoreset_mode": "Sometimes"}, "unknown autoreset_mode 'Sometimes'"),
        ({"render_mode": "ansi"}, "draws nothing"),
        ({"budget": "seconds"}, "unknown budget"),
    ],
)
def test_bad_arguments_are_refused_in_a_sentence(kwargs, said):
    from plasticity_env.envs.route_vector import RouteVectorEnv

    with pytest.raises(InputError, match=said):
        RouteVectorEnv(table=TABLE, **kwargs)


def test_bad_actions_seeds_and_masks_are_refused_in_a_sentence():
    envs = gym.make_vec(ID, num_envs=2, table=TABLE)
    with pytest.raises(gym.error.ResetNeeded):
        envs.step(np.array([0, 0]))
    with pytest.raises(gym.error.ResetNeeded):
        envs.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(InputError, match="seed must be"):
        envs.reset(seed=[1, 2, 3])
    envs.reset(seed=0)
    for actions in ([0], [0, 9], [0.5, 1.0], None):
        with pytest.raises(InputError, match=r"whole numbers|numbers in an array"):
            envs.step(actions)
    with pytest.raises(InputError, match="reset_mask must be boolean"):
        envs.reset(options={"reset_mask": [1, 0]})
