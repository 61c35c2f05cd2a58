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
        action = env.action_space.sample(mask=controllers.sample_mask(observation))
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
