"""Recipes fit the algorithms and the environments that they are for, and only those."""

from __future__ import annotations

import gymnasium as gym
import pytest
from stable_baselines3 import DQN, PPO

from plasticity_env import InputError
from plasticity_env.agents.training.agent import ENVIRONMENTS
from plasticity_env.agents.tuning.recipe_files import ALGORITHMS, find_recipe, recipes
from plasticity_env.envs.stream_bench import StreamBench
from plasticity_env.envs.stream_settings import StreamSettings
from tests.page_blocks import ROOT

ROUTE, STREAM = "plasticity/Route-v0", "plasticity/Stream-v0"
IDS = (*ENVIRONMENTS.values(), "plasticity/Levels-v0", ROUTE, STREAM)
PAIRS = [(algorithm, env_id) for algorithm in ALGORITHMS for env_id in IDS]


@pytest.fixture(scope="module")
def bench() -> StreamBench:
    kinds = ("shakespeare", "generated:json")
    return StreamBench(
        StreamSettings(model_name="bard-gpt2-4x4", datasets=kinds, max_length=24, fit_blocks=2, chunks=6, stage=2)
    )


@pytest.fixture
def made_env(make_env, bench: StreamBench):
    """A small environment of an id."""

    def make(env_id: str) -> gym.Env:
        if env_id == ROUTE:
            return gym.make(env_id, probes=1)  # only with probes there are actions that are not allowed
        return gym.make(env_id, bench=bench) if env_id == STREAM else make_env(env_id)

    return make


def class_of(algorithm: str) -> type:
    if algorithm == "ppo_mask":
        return pytest.importorskip("sb3_contrib", reason="sb3-contrib is not installed").MaskablePPO
    return {"ppo": PPO, "dqn": DQN}[algorithm]


@pytest.mark.parametrize(("algorithm", "env_id"), PAIRS)
def test_a_recipe_is_there_exactly_where_the_actions_are_taken(made_env, algorithm: str, env_id: str) -> None:
    env, made = made_env(env_id), class_of(algorithm)
    if env_id in recipes(algorithm):
        recipe = find_recipe(algorithm, env_id)
        model = made(env=env, seed=0, **{**recipe.arguments, "batch_size": 16})
        action, _ = model.predict(env.reset(seed=0)[0], deterministic=True)
        assert env.action_space.contains(action if action.ndim else int(action))
        assert recipe.n_timesteps > 0
        return
    if (algorithm, env_id) != ("ppo_mask", STREAM):  # which it takes, but has nothing to mask in
        with pytest.raises(AssertionError, match=r"does not support|only supports"):
            made("MultiInputPolicy", env)
    with pytest.raises(InputError, match=f"unknown id with a recipe for {algorithm}"):
        find_recipe(algorithm, env_id)


def test_the_page_says_which_algorithm_takes_which_id() -> None:
    page = (ROOT / "docs/how-to/tune.md").read_text(encoding="utf-8")
    for env_id in IDS:
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{env_id}`")]
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[-len(ALGORITHMS) :] == ["yes" if env_id in recipes(name) else "no" for name in ALGORITHMS]


def test_a_rate_that_falls_is_rl_zoos() -> None:
    rate = find_recipe("ppo", IDS[0]).arguments["learning_rate"]
    assert (rate(1.0), rate(0.5), rate(0.0)) == (1e-3, 5e-4, 0.0)
    with pytest.raises(InputError, match="unknown algorithm of a recipe 'a2c'"):
        recipes("a2c")


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "env_id"), [pair for pair in PAIRS if pair[1] in recipes(pair[0])])
def test_recipes_train(made_env, algorithm: str, env_id: str) -> None:
    """Slow: an update of each."""
    recipe = find_recipe(algorithm, env_id)
    small = {"learning_starts": 8, "buffer_size": 64} if algorithm == "dqn" else {}
    model = class_of(algorithm)(env=made_env(env_id), seed=0, **{**recipe.arguments, **small})
    model.learn(recipe.arguments.get("n_steps", 24))
    assert model._n_updates > 0
