"""Training a router: it beats every structure for all on texts that it did not see, and does so again from the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from plasticity_env import InputError
from plasticity_env.agents.routing.router_arguments import RouterTraining
from plasticity_env.agents.routing.router_training import train_router
from plasticity_env.controllers.routers import LabelOracle, NearestRouter, TextOracle
from plasticity_env.envs.route_split import split_texts
from tests.plasticity_env.envs.route_tables import made_table

TABLE = made_table(60)
TEST = split_texts(TABLE, "test")


def potential(player, price):
    played = player.play(TABLE, TEST)
    return float((-played.rise(TABLE, TEST) - price * np.log(played.flops_kept(TABLE))).mean())


@pytest.mark.parametrize(
    ("how", "share"),
    [
        pytest.param({"total_steps": 0}, 0.5, id="regression"),
        pytest.param({"warm_start": 0, "total_steps": 40_960, "learning_rate": 3e-3}, 0.4, id="PPO"),
    ],
)
def test_regression_and_ppo_each_learn_to_route(how, share):
    """They close a part of the gap between the best structure for all, at a price, and the best for each text.

    With six seeds each PPO closed 0.67 of it or more.
    """
    router = train_router(TABLE, RouterTraining(**how))
    kept = np.log(TABLE.flops_kept(np.arange(9)))
    for price in (1.0, 2.0):
        fixed = (TABLE.loss[:, :1] - TABLE.loss)[TEST].mean(0) - price * kept
        best, oracle = float(fixed.max()), potential(TextOracle(price=price), price)
        assert potential(router.at(price), price) > best + share * (oracle - best)
    stages = router.info["potential"]
    assert router.info["kept"] == ("regression" if "regression" in stages else "PPO")
    assert stages[router.info["kept"]] > stages["untrained"]


def test_levels_are_chosen_by_how_hard_a_text_is():
    """Half-way between the shares it saves against the label oracle, whose FLOPs it has, interpolated between its shares."""
    router = train_router(TABLE, RouterTraining(total_steps=0)).at(0.45)
    played = router.play(TABLE, TEST)
    kept, rise = played.flops_kept(TABLE).mean(), played.rise(TABLE, TEST).mean()
    levels = [LabelOracle(share).play(TABLE, TEST) for share in (0.3, 0.6)]
    costs, rises = (
        [f(each) for each in levels]
        for f in (lambda p: p.flops_kept(TABLE).mean(), lambda p: p.rise(TABLE, TEST).mean())
    )
    assert costs[1] < kept < costs[0]
    assert rise < np.interp(kept, costs[::-1], rises[::-1])


def test_the_same_seed_trains_the_same_router_and_test_texts_are_not_read():
    how = RouterTraining(total_steps=1024, num_envs=32, warm_start=5)
    first, again = train_router(TABLE, how), train_router(TABLE, how)
    assert first.info == again.info
    assert np.array_equal(first.play(TABLE, TEST).structures, again.play(TABLE, TEST).structures)
    loss = TABLE.loss.copy()
    loss[TEST] += 5.0
    other = train_router(TABLE.__class__(**{**vars(TABLE), "loss": loss}), how)
    assert other.info["potential"] == first.info["potential"]


def test_a_kind_can_be_held_out():
    router = train_router(TABLE, RouterTraining(total_steps=0, held_out="code"))
    assert router.info["texts"] == 68  # of 90 train texts of the other kinds, less a quarter that judges


def test_too_few_texts_and_arguments_that_train_nothing_are_refused():
    with pytest.raises(InputError, match="at least 8 train texts, the table has 3"):
        train_router(made_table(2), RouterTraining())
    with pytest.raises(InputError, match="nothing would be trained"):
        RouterTraining(warm_start=0, total_steps=0)
    assert NearestRouter(0.3).play(TABLE, TEST).structures.any()
