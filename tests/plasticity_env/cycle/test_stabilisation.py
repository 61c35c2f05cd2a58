"""The end of a warm-up on losses that are known."""

from __future__ import annotations

import math

from plasticity_env.cycle.stabilisation import stabilisation


def test_a_loss_that_falls_by_more_than_the_threshold_never_stabilises():
    losses = [3.0 * 0.95**step for step in range(60)]  # a window of 5 improves by 23%
    found = stabilisation(losses, window=5, threshold=0.1)
    assert found.stabilised_at is None
    assert "not stable" in found.reason
    assert len(found.smoothed) == 12
    assert math.isclose(found.smoothed[1], sum(losses[5:10]) / 5)


def test_a_loss_that_falls_and_then_stays_stabilises_two_windows_after_it_stays():
    losses = [10.0 - step for step in range(8)] + [2.0] * 20  # windows of 4: 8.5, 4.5, 2, 2, 2, ...
    found = stabilisation(losses, window=4, threshold=0.01)
    assert found.stabilised_at == 20  # windows 3 and 4 no longer improve
    assert "0.00% and 0.00%" in found.reason


def test_one_hard_window_does_not_end_the_warmup():
    losses = [4.0, 4.5, 2.0, 2.1, 1.0, 1.0, 1.0]
    assert stabilisation(losses, window=1, threshold=0.05).stabilised_at == 7
    assert stabilisation(losses, window=1, threshold=0.05, patience=1).stabilised_at == 2


def test_noise_around_a_level_is_stable_and_a_rising_loss_too():
    noisy = [3.0 + 0.2 * (-1) ** step for step in range(30)]
    assert stabilisation(noisy, window=10, threshold=0.01).stabilised_at == 30
    assert stabilisation([1.0 + 0.1 * step for step in range(9)], window=3, threshold=0.0).stabilised_at == 9


def test_too_few_steps_are_not_judged():
    found = stabilisation([3.0] * 11, window=4, threshold=0.01)
    assert found.stabilised_at is None
    assert "12 steps are needed" in found.reason
    assert stabilisation([], window=4, threshold=0.01).smoothed == []
