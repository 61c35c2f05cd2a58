"""The rule of thresholds: which side it takes at each decision, what it may prune at least, and what it says."""

from __future__ import annotations

import numpy as np
import pytest

from plasticity_env import InputError, controllers
from plasticity_env.controllers import PlasticityController
from plasticity_env.strategies.thresholds import Thresholds
from tests.controllers.test_controllers import observe

ENTROPY = np.arange(12) / 12
FALLS = {"entropy_normalized": ENTROPY, "fisher": 2 - ENTROPY}  # the higher the entropy, the less a head matters
RISES = {"entropy_normalized": ENTROPY, "fisher": 2 + ENTROPY}


def test_auto_takes_the_side_that_each_measurement_shows():
    rule, said = PlasticityController("auto"), []
    for head in (FALLS, RISES, FALLS):
        rule.act(observe(head))
        said.append(rule.details["direction"])
    assert said == ["high", "low", "high"]
    fixed = PlasticityController("low")
    fixed.act(observe(FALLS))
    assert fixed.details == {"direction": "low"}


def test_pruned_heads_count_for_the_side_where_they_may_come_back():
    """Six idle heads are gone; only with what their closed gates show does entropy speak against them."""
    active = ENTROPY >= 0.5
    fisher = np.where(active, 1 + ENTROPY, 9 - ENTROPY)
    rule = PlasticityController("auto")
    rule.act(observe({"entropy_normalized": ENTROPY, "fisher": fisher, "active": active}))
    assert rule.direction == "high"
    rule.act(observe({"entropy_normalized": ENTROPY * active, "fisher": fisher * active, "active": active}))
    assert rule.direction == "low"  # compressed mode hides them


def test_a_head_pruned_on_one_side_comes_back_on_the_other():
    gradient = np.where(ENTROPY < 0.25, 0.1, 0.5)
    rule = PlasticityController("auto", 0.25, history=1, min_zeroed_epochs=1)
    edits = rule.act(observe({**RISES, "gradient": gradient}))
    assert np.flatnonzero(edits == 1).tolist() == [0, 1, 2]
    pruned = {"active": edits == 0, "gradient": np.where(edits == 1, 0.9, 0.5), "fisher": 2 - ENTROPY}
    waiting = rule.act(observe({"entropy_normalized": ENTROPY, **pruned, "age": np.where(edits == 1, 0, 9)}))
    assert (waiting != 2).all()
    back = rule.act(observe({"entropy_normalized": ENTROPY, **pruned, "age": np.where(edits == 1, 1, 9)}))
    assert np.flatnonzero(back == 2).tolist() == [0, 1, 2]


@pytest.mark.parametrize(("rate", "count"), [(0.05, 1), (0.01, 1), (0.2, 2), (0.0, 0), (1.0, 7)])
def test_a_rate_limit_allows_one_head_at_least(rate, count):
    head = {"entropy_normalized": ENTROPY, "gradient": ENTROPY[::-1]}
    edits = PlasticityController("high", aggressiveness=0.6, max_prune_rate=rate).act(observe(head))
    assert (edits == 1).sum() == count


def test_each_edit_states_its_numbers():
    rule = PlasticityController("high", 0.4, 1.98, 0.009, history=1)
    head = {"entropy": [2.31, 1.5, 2.2], "gradient": [0.004, 0.02, 0.02], "active": [1, 0, 1]}
    assert rule.act(observe(head, count=3)).tolist() == [1, 2, 0]
    assert rule.reasons == {
        0: "entropy 2.31 > 1.98 nats and gradient 0.004 < 0.009",
        1: "entropy 1.5 < 1.98 nats and gradient 0.02 > 0.009",
    }
    low = PlasticityController("low", 0.4, 1.98, 0.009)
    for _ in range(2):
        low.act(observe({"entropy": [1.97999, 3.0], "gradient": [0.009, 0.004]}, count=2))
    assert low.reasons == {
        0: "entropy 1.97999 < 1.98 nats and gradient 0.009 = 0.009 (means of 2 measurements)"
    }  # digits enough to tell them apart
    shares = PlasticityController("high", 0.5)
    shares.act(observe({"entropy_normalized": [0.1, 0.9, 0.2], "gradient": [0.5, 0.1, 0.6]}, count=3))
    assert shares.reasons == {1: "entropy 0.9 > 0.2 of the highest possible and gradient 0.1 < 0.5"}


@pytest.mark.parametrize("value", ["x", float("nan"), float("inf"), -1.0, True])
@pytest.mark.parametrize("option", ["entropy_threshold", "gradient_threshold", "max_prune_rate", "aggressiveness"])
def test_what_is_no_threshold_is_refused(option, value):
    with pytest.raises(InputError, match=f"{option} must"):
        controllers.make("plasticity", **{option: value})


def test_options_of_commands_are_those_of_the_rule():
    with pytest.raises(InputError, match="min_zeroed_epochs must be a whole number"):
        Thresholds(min_zeroed_epochs=1.5)  # type: ignore[arg-type]
    rule = PlasticityController(**Thresholds(1.0, 0.5, 4, 0.25, 2).options())
    found = (rule.entropy_threshold, rule.gradient_threshold, rule.min_zeroed_epochs, rule.max_prune_rate)
    assert found == (1.0, 0.5, 4, 0.25)
