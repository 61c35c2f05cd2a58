"""Growth on trial: kept where it pays for its FLOPs, taken back without a trace where it does not."""

from __future__ import annotations

import math

import pytest
import torch

from plasticity_env import load_model
from plasticity_env.cycle.arms import Arm
from plasticity_env.cycle.bringing_back import bring_back, share_of_heads
from plasticity_env.cycle.deciders import Decision, StrategyDecider
from plasticity_env.cycle.growth_trial import GrowthTrial, try_growth
from plasticity_env.model.flops import flops


def pruned_arm(text, settings):
    arm = Arm(load_model("bard-gpt2-4x4").model, text, settings)
    mask = torch.zeros(arm.model.shape, dtype=torch.bool)
    mask[1, :3] = mask[2, 0] = True
    arm.model.prune(mask)
    arm.trainer.run(1)
    return arm


def same(first, second):
    return all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.slow
@pytest.mark.parametrize(("price", "kept"), [(1e-6, True), (1e3, False)])
def test_heads_stay_only_where_they_pay_for_their_flops(short, small_text, price, kept):
    """Slow: the arm and the trial beside it train."""
    arm = pruned_arm(small_text, short(growth_init="revive", flop_price=price, growth_trial_steps=2))
    before, weights = arm.flops, {name: value.clone() for name, value in arm.model.state_dict().items()}
    generator, seen = torch.Generator().manual_seed(0), []

    def way(gate_steps):
        seen.append(gate_steps)
        return share_of_heads(arm, 2, generator, gate_steps)

    mask, trial = bring_back(arm, way, generator, 7)
    assert trial is not None
    assert seen == ([2, 7] if kept else [2])
    assert (int(mask.sum()), trial.pays) == (2 * kept, kept)
    assert trial.heads == 2
    assert trial.flops_without == before < trial.flops_with
    assert arm.flops == (trial.flops_with if kept else before)
    assert arm.trainer.taken == 1  # of the run; the trial's steps are its own
    assert trial.gain == pytest.approx(trial.loss_without - trial.loss_with)
    assert trial.cost == pytest.approx(price * math.log(trial.flops_with / trial.flops_without))
    assert str(trial).startswith("kept on trial" if kept else "taken back on trial")
    if not kept:
        assert same(weights, arm.model.state_dict())


def test_a_trial_leaves_no_trace(short, small_text):
    """After a refused trial the run goes on as one that never had it: to the bit, optimizer and draws included."""
    plain, tried = (pruned_arm(small_text, short(flop_price=1e3)) for _ in range(2))
    generator = torch.Generator().manual_seed(5)
    untouched = generator.get_state()
    _, trial = try_growth(tried, lambda gates: share_of_heads(tried, 2, generator, gates), 2, 2, generator)
    assert not trial.pays
    assert torch.equal(generator.get_state(), untouched)
    steps = [arm.trainer.run(2) for arm in (plain, tried)]
    assert [step.loss for step in steps[0]] == [step.loss for step in steps[1]]
    assert same(plain.model.state_dict(), tried.model.state_dict())


def test_both_continuations_are_what_training_on_would_have_been(short, small_text):
    without, tried = (pruned_arm(small_text, short(growth_init="revive")) for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    _, trial = try_growth(tried, lambda gates: share_of_heads(tried, 2, generator, gates), 2, 2, generator)
    without.trainer.run(2)
    assert trial.loss_without == without.loss("reward")
    assert trial.flops_without == flops(without.model, 32)


def test_a_run_says_what_its_trial_measured(run_short):
    cheap = run_short(
        "cheap", growth_init="revive", growth_trial_steps=1, flop_price=1e-6, training_steps=1, warmup_steps=1
    )
    events = [event for event in cheap.events if event.phase == "growth"]
    assert len(events) == 2
    assert all("kept on trial: 2 heads gain" in event.reason for event in events)
    dear = run_short(
        "dear", growth_init="random", growth_trial_steps=1, flop_price=1e3, training_steps=1, warmup_steps=1
    )
    (phase,) = [row for row in dear.phases if row.phase == "growth"]
    assert phase.details["grown"] == 0
    assert phase.details["trial"].startswith("taken back on trial: 2 heads gain")
    assert not [event for event in dear.events if event.phase == "growth"]


class Grower(StrategyDecider):
    """Prunes as Fisher does, and wants two heads back each time."""

    grows = True

    def __init__(self, strategy):
        super().__init__(strategy)
        self.asked, self.gone = [], []

    def taken_back(self, heads):
        self.gone.append(heads)

    def decide(self, situation):
        chosen = super().decide(situation)
        gone = ~(situation.active & ~chosen.prune)
        back = torch.zeros_like(gone)
        for where in gone.nonzero().tolist()[:2]:
            back[tuple(where)] = True
        self.asked.append(back & ~situation.active)
        return Decision(chosen.prune, torch.zeros_like(gone), self.asked[-1], {})


@pytest.mark.parametrize(("price", "stay"), [(1e3, False), (1e-6, True)])
def test_a_decider_is_told_what_did_not_stay(run_short, price, stay):
    decider = Grower("fisher")
    settings = {"growth_trial_steps": 1, "training_steps": 2, "decision_every": 1, "flop_price": price}
    record = run_short("told", decider, growth_init="revive", warmup_steps=1, learning_rate=1e-5, **settings)
    grown = sum(event.edit == "grow" for event in record.events)
    assert sum(int(mask.sum()) for mask in decider.asked) == grown + sum(int(mask.sum()) for mask in decider.gone) > 0
    assert (grown > 0) == stay
    asked = [mask for mask in decider.asked if bool(mask.any())]
    assert all(any(torch.equal(mask, one) for one in asked) for mask in decider.gone)


def test_what_a_decider_asks_for_is_on_trial_too(run_short):
    settings = {"growth_trial_steps": 1, "training_steps": 2, "decision_every": 1, "flop_price": 1e3, "warmup_steps": 1}
    record = run_short("asked", Grower("fisher"), growth_init="lemon", **settings)
    assert not [event for event in record.events if event.edit == "grow"]
    (tuning,) = [row for row in record.phases if row.phase == "fine_tuning"]
    assert all(said.startswith("taken back on trial") for said in tuning.details["trials"])
    assert tuning.details["trials"]


def test_a_trial_in_numbers():
    trial = GrowthTrial(3, 5, 3.41, 3.40, 100.0, 110.0, 0.2)
    assert not trial.pays  # 0.01 nats for 0.2 * log(1.1) = 0.019
    assert "gain +0.0100 nats in 5 steps" in str(trial)
    assert "10.00% more FLOPs at 0.2 a nat" in str(trial)
