"""RevivingController: pruned heads stand for choice."""

from __future__ import annotations

import numpy as np
import pytest

from plasticity_env import InputError
from plasticity_env.controllers.reviving import RevivingController
from plasticity_env.envs.edits import GROW, KEEP, PRUNE, REVIVE
from tests.controllers.test_controllers import observe

SCORES = np.array([8.0, 7, 6, 5, 4, 3, 2, 1, 9, 5.5, 0.5, 9])
ACTIVE = np.array([1] * 8 + [0] * 4)


def look(rank=True, **columns):
    gain = np.where(ACTIVE, 0.0, 1.0)
    given = {"active": ACTIVE, "fisher": SCORES, "revive": gain, "age": np.full(12, 3), **columns}
    return observe(given, mode="head_rank" if rank else "heads")


def kept(scores, count=8):
    return set(np.argsort(scores)[-count:].tolist())


def test_a_pruned_head_takes_the_place_of_a_lesser_active_one():
    assert kept(RevivingController(margin=0.0).act(look())) == {0, 1, 2, 3, 4, 8, 9, 11}


@pytest.mark.parametrize(
    ("options", "columns", "back"),
    [
        ({"margin": 1.0}, {}, {8, 11}),  # 9 / 2 and 5.5 / 2 against 1, 2, 3, 4
        ({"margin": 9.0}, {}, set()),
        ({"margin": 0.0}, {"revive": np.array([0.0] * 8 + [1, 1, 1, -1])}, {8, 9}),  # opening 11 would cost
        ({"margin": 0.0, "rest": 4}, {"age": np.array([3] * 8 + [5, 1, 9, 3])}, {8}),
    ],
)
def test_who_stands_for_choice(options, columns, back):
    assert kept(RevivingController(**options).act(look(**columns))) & {8, 9, 10, 11} == back


def test_on_heads_the_number_pruned_stays_and_what_returns_is_grown_or_revived():
    for returns, edit in (("revive", REVIVE), ("grow", GROW)):
        observation = look(rank=False)
        observation["action_mask"][8:, 3] = 1  # growing is allowed
        action = RevivingController(margin=0.0, sparsity=1 / 3, returns=returns).act(observation)
        assert set(np.flatnonzero(action == edit)) == {8, 9, 11}
        assert set(np.flatnonzero(action == PRUNE)) == {5, 6, 7}
        assert set(np.flatnonzero(action == KEEP)) == {0, 1, 2, 3, 4, 10}


def test_a_new_stage_does_not_reopen_what_an_earlier_one_pruned():
    action = RevivingController(margin=1e6, sparsity=1 / 3, rounds=4).act(look(rank=False, revive=-np.ones(12)))
    assert (action == KEEP).all()


def test_a_score_that_is_zero_where_pruned_takes_a_likeness():
    residual = np.where(ACTIVE, SCORES / 10, 0.0)  # a tenth of Fisher where active
    scores = RevivingController("residual_fisher", margin=0.0).act(look(residual_fisher=residual))
    assert kept(scores) == kept(RevivingController("fisher", margin=0.0).act(look()))


def test_random_lets_every_pruned_head_stand():
    controller = RevivingController("random", margin=0.0)
    controller.reset(0)
    back = [kept(controller.act(look(revive=-np.ones(12)))) & {8, 9, 10, 11} for _ in range(60)]
    assert set().union(*back) == {8, 9, 10, 11}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score": "fishy"}, "fishy"),
        ({"score": "flap"}, "'flap' compares active heads only"),
        ({"score": "fisher_obs"}, "'fisher_obs' compares active heads only"),
        ({"margin": -1}, "margin"),
        ({"rest": -1}, "rest"),
        ({"returns": "clone"}, "clone"),
    ],
)
def test_bad_options_are_one_sentence(options, message):
    with pytest.raises(InputError, match=message):
        RevivingController(**options)
