"""The trial of both directions, beside pruning for real."""

from __future__ import annotations

import pytest
import torch

from plasticity_env import PlasticModel, generate_pruning_mask, load_model, mean_loss, measure
from plasticity_env.strategies.entropy_direction import EntropyTrial, try_entropy_directions
from tests.conftest import build
from tests.plasticity_env.training.rows import GPT2, LLAMA, text


@pytest.mark.parametrize("name", [GPT2, LLAMA])
def test_the_losses_are_those_of_pruning_and_auto_takes_the_smaller(name):
    model = load_model(name).model
    ids = text(name, 24).blocks("reward")[:8]
    trial = try_entropy_directions(model, measure(model, ids, obs=False), model.active, 5, ids)
    dense, masks, losses = model.snapshot(), {}, {}
    for direction in ("high", "low"):
        masks[direction] = generate_pruning_mask(
            model, 5 / model.active.numel(), "entropy", data=ids, prune_entropy=direction
        )
        model.prune(masks[direction])
        losses[direction] = mean_loss(model, ids)
        model.restore(dense)
    assert (trial.high, trial.low) == pytest.approx((losses["high"], losses["low"]), rel=1e-6)
    assert bool(model.active.all())
    auto = generate_pruning_mask(model, 5 / model.active.numel(), "entropy", data=ids)
    assert torch.equal(auto, masks[min(losses, key=losses.get)])


def test_pruned_candidates_are_open_in_the_trial_unless_it_chooses_them(ids):
    model = PlasticModel(build("gpt2"))
    dense = mean_loss(model, ids)
    mask = torch.zeros(model.shape, dtype=torch.bool)
    mask[0, :2] = True
    model.prune(mask)
    signals = measure(model, ids, obs=False)
    everything = torch.ones_like(mask)
    assert try_entropy_directions(model, signals, everything, 0, ids).high == pytest.approx(dense, rel=1e-6)
    assert try_entropy_directions(model, signals, model.active, 0, ids).low == pytest.approx(mean_loss(model, ids))


def test_a_tie_is_high():
    assert EntropyTrial(1.0, 1.0).direction == "high"
    assert EntropyTrial(1.5, 1.0).direction == "low"
