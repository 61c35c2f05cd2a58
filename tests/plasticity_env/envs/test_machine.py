"""The four ids hold what they promise in whatever order they are called; see `tests.plasticity_env.envs.machine`."""

from __future__ import annotations

import pytest

from tests.plasticity_env.envs.machine import run


def test_two_hundred_steps_of_the_machine():
    tally = run(200, seed=0)
    assert tally["steps"] >= 200
    assert tally["frozen"]
    assert tally["episodes that train"]
    assert tally["plasticity/Levels-v0"]


@pytest.mark.slow
def test_fifteen_hundred_steps_of_the_machine():
    """Slow: 1,500 steps, each with its checks."""
    tally = run(1500, seed=1000)
    called = ("masked step", "random step", "fork", "deepcopy", "pickle", "tried and undone", "replayed", "gone on")
    assert all(tally[name] for name in called), tally
