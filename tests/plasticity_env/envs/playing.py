"""A few random steps of an environment, and whether two traces of them are the same."""

from __future__ import annotations

import numpy as np

from plasticity_env import controllers

IDS = ["plasticity/Heads-v1", "plasticity/HeadEdit-v1"]


def play(env, seed, steps=3):
    random = np.random.default_rng(seed)
    observation, info = env.reset(seed=seed)
    trace = [(observation, 0.0, info)]
    for _ in range(steps):
        env.action_space.seed(int(random.integers(1 << 30)))
        mask = None if env.unwrapped.kind == "head_rank" else controllers.sample_mask(observation)
        action = env.action_space.sample(mask=mask)
        observation, reward, terminated, _, info = env.step(action)
        trace.append((observation, reward, info))
        if terminated:
            break
    return trace


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return np.array_equal(a, b)


def go_on_and_start_anew(env, episodes=2):
    """The rest of an episode that has begun, then whole ones: where an environment trains, each must find the dense model."""
    trace = []
    random = np.random.default_rng(0)
    for _ in range(2):
        action = random.integers(0, 2, env.unwrapped.head_slots)
        if env.unwrapped.kind == "head_edit":
            action = int(random.integers(1, env.unwrapped.head_slots))
        observation, reward, *_, info = env.step(action)
        trace.append((dict(observation), reward, info))
    for seed in range(episodes):
        trace += [(dict(observation), reward, info) for observation, reward, info in play(env, seed)]
    return trace
