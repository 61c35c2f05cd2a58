"""Carrying decisions out within a budget: what is refused leaves nothing behind."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from plasticity_env import load_model
from plasticity_env.cycle.apply import prune_to
from plasticity_env.cycle.arms import Arm
from plasticity_env.cycle.deciders import Decider, Decision


class Grower(Decider):
    """Prunes one head more each time, and wants the head before it back."""

    name, grows = "grower", True

    def decide(self, situation):
        active = situation.active
        prune, grow = torch.zeros_like(active), torch.zeros_like(active)
        at = int((~active).sum())
        prune.view(-1)[at] = True
        grow.view(-1)[at - 1] = at > 0
        return Decision(prune, torch.zeros_like(active), grow)


def test_growth_of_a_refused_decision_does_not_wait(short, small_text):
    model = load_model("bard-gpt2-4x4").model
    arm = Arm(model, small_text, short(max_perplexity_increase=0.1, portion=1 / 16))
    arm.loss = lambda split: [0.0, 0.0, 1.0][int((~model.active).sum())]  # the second head breaks the budget
    done = prune_to(0.25, arm, Grower(), lambda level: SimpleNamespace(active=model.active, signals=None), 0.0)
    assert int((~model.active).sum()) == 1
    assert len(done.decisions) == 1
    assert done.refused is not None
    assert done.waiting is None
