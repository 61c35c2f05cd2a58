"""Every decider reaches the level, keeps the mode, and says why."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from plasticity_env import InputError, controllers, load_model
from plasticity_env.agents.cycle_cli.deciding import RankedDecider, decider_for
from plasticity_env.cycle import ControllerDecider, Situation, StrategyDecider, observe
from plasticity_env.cycle.arms import Arm
from plasticity_env.cycle.deciders import pruned_count
from plasticity_env.envs.edits import KEEP, PRUNE, REVIVE
from plasticity_env.envs.observation import GLOBAL_FEATURES, HEAD_FEATURES, global_value, head_column
from plasticity_env.model.flops import flop_table
from plasticity_env.strategies.pruning import PRUNING_STRATEGIES
from tests.conftest import ALL_SIGNALS


@pytest.fixture
def situation(short, small_text):
    """The situation of an embedded model with some heads pruned, as a decider sees it."""

    def make(mode="adaptive", pruned=(), level=0.25, **changes):
        model = load_model("bard-gpt2-4x4", mode=mode).model
        mask = torch.zeros(model.shape, dtype=torch.bool)
        for layer, head in pruned:
            mask[layer, head] = True
        model.prune(mask)
        arm = Arm(model, small_text, short(pruning_mode=mode))
        found = Situation(
            model=model,
            signals=arm.signals(obs=True, residual=True),
            active=model.active,
            cycle=1,
            cycles=1,
            step=3,
            level=level,
            text=small_text,
            generator=torch.Generator().manual_seed(0),
            costs=flop_table(model, 32),
            loss=3.5,
            control_loss=3.25,
            age=np.full(model.shape, 5),
        )
        return dataclasses.replace(found, **changes)

    return make


def after(found: Situation, decision):
    return found.active & ~decision.prune | decision.revive


@pytest.mark.parametrize("name", sorted(PRUNING_STRATEGIES))
def test_a_strategy_prunes_to_the_level_and_says_why(situation, name):
    found = situation(pruned=[(0, 0), (3, 2)])
    decision = StrategyDecider(name).decide(found)
    assert int((~after(found, decision)).sum()) == 4
    assert not bool((decision.prune & ~found.active).any())
    assert not bool((decision.revive & found.active).any())
    edits = (decision.prune | decision.revive).nonzero().tolist()
    assert sorted(decision.reasons) == sorted(map(tuple, edits))
    assert all(name.partition("_")[0] in reason for reason in decision.reasons.values())


def test_the_least_important_slots_are_chosen_pruned_ones_included(situation):
    found = situation(pruned=[(0, 0), (3, 2)])
    decision = StrategyDecider("fisher").decide(found)
    lowest = found.signals.fisher.flatten().argsort()[:4]
    assert set((~after(found, decision)).flatten().nonzero().flatten().tolist()) == set(lowest.tolist())
    kept = StrategyDecider("fisher").decide(dataclasses.replace(found, reconsider=False))
    assert not bool(kept.revive.any())
    assert int(kept.prune.sum()) == 2


def test_compressed_mode_never_revives(situation):
    found = situation("compressed", pruned=[(0, 0), (3, 2)])
    decision = StrategyDecider("random").decide(found)
    assert not bool(decision.revive.any())
    assert int(decision.prune.sum()) == 2
    nothing = StrategyDecider("random").decide(dataclasses.replace(found, level=0.0))
    assert not bool(nothing.prune.any())


@pytest.mark.parametrize("direction", ["high", "low"])
def test_entropy_prunes_the_end_of_the_scale_that_it_is_told(situation, direction):
    found = situation()
    decision = StrategyDecider("entropy", direction).decide(found)
    entropy = found.signals.entropy_normalized
    other = found.active & ~decision.prune
    if direction == "high":
        assert float(entropy[decision.prune].min()) >= float(entropy[other].max())
    else:
        assert float(entropy[decision.prune].max()) <= float(entropy[other].min())
    assert decision.details["direction"] == direction


def test_entropy_auto_takes_the_direction_that_costs_less(situation):
    details = StrategyDecider("entropy").decide(situation()).details
    assert details["direction"] == ("high" if details["loss_high"] <= details["loss_low"] else "low")


def test_a_controller_sees_what_the_environment_would_show(situation, make_env, small_text):
    env = make_env(text=small_text, repair="none", train_steps=1, max_sparsity=0.5, calibration_blocks=4, **ALL_SIGNALS)
    seen, _ = env.reset(seed=0, options={"calibration": [0, 1, 2, 3], "flop_price": 4.0})
    found = observe(situation(level=0.5, loss=1.0, control_loss=1.0, age=np.zeros((4, 4)), decisions=3))
    skipped = {"age"}
    for name in set(HEAD_FEATURES) - skipped:
        np.testing.assert_allclose(
            head_column(found, name), head_column(seen, name), rtol=2e-3, atol=1e-4, err_msg=name
        )
    for name in GLOBAL_FEATURES:
        assert global_value(found, name) == pytest.approx(global_value(seen, name), abs=1e-6), name
    np.testing.assert_array_equal(found["action_mask"], seen["action_mask"])


class Always:
    """Asks one edit of every head."""

    name = "always"

    def __init__(self, edit):
        self.edit = edit

    def reset(self, seed=None):
        pass

    def act(self, observation):
        return np.full(len(observation["heads"]), self.edit)


def test_a_controller_cannot_prune_beyond_the_level(situation):
    found = situation(pruned=[(0, 0)])
    decision = ControllerDecider(Always(PRUNE)).decide(found)
    assert int((~after(found, decision)).sum()) == 4
    spared = found.signals.fisher[found.active & ~decision.prune].min()
    assert float(found.signals.fisher[decision.prune].max()) <= float(spared)
    assert decision.details["asked"]["prune"] == 16


def test_a_controller_can_revive_in_adaptive_mode_only(situation):
    for mode, revived in (("adaptive", 1), ("compressed", 0)):
        decision = ControllerDecider(Always(REVIVE)).decide(situation(mode, pruned=[(0, 0)]))
        assert int(decision.revive.sum()) == revived
    nothing = ControllerDecider(Always(KEEP)).decide(situation())
    assert not bool((nothing.prune | nothing.revive | nothing.grow).any())


def test_a_resumed_controller_remembers_what_it_saw(situation):
    first = ControllerDecider(controllers.PlasticityController())
    first.decide(situation())
    state = first.state_dict()
    second = ControllerDecider(controllers.PlasticityController())
    second.load_state_dict(state)
    later = situation(pruned=[(1, 1)], loss=3.0)
    a, b = first.decide(later), second.decide(later)
    assert bool((a.prune == b.prune).all())
    np.testing.assert_array_equal(first.controller._entropy[0], second.controller._entropy[0])
    assert len(second.controller._entropy) == 2


def test_deciders_by_name(short, tmp_path, situation):
    assert isinstance(decider_for(short()), StrategyDecider)
    rule = decider_for(short(pruning_strategy="controller"))
    assert isinstance(rule.controller, controllers.PlasticityController)
    torch.manual_seed(0)
    controllers.ANNController().save(tmp_path)
    named = short(pruning_strategy="controller", controller=str(tmp_path))
    ranked = decider_for(named)
    assert isinstance(ranked, RankedDecider)
    found = situation(level=0.375)
    assert int(ranked.decide(found).prune.sum()) == 6
    free = decider_for(dataclasses.replace(named, free_policy=True))
    assert free.controller.free
    assert int((~after(found, free.decide(found))).sum()) <= 6
    with pytest.raises(InputError, match="no controller at"):
        decider_for(dataclasses.replace(named, controller="nowhere"))


def test_a_level_leaves_one_head_and_lies_below_one():
    active = torch.ones(2, 3, dtype=torch.bool)
    assert [pruned_count(level, active) for level in (0.0, 0.34, 0.99)] == [0, 2, 5]
    with pytest.raises(InputError, match=r"\[0, 1\)"):
        pruned_count(1.0, active)
