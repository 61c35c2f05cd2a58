"""The end of a warm-up before its time: the model computes what it did, and no gate is half open."""

from __future__ import annotations

import torch

from plasticity_env import PlasticModel
from plasticity_env.growth.settling import settle_gates
from plasticity_env.repair.whole import repair_model
from tests.conftest import build


def grown(ids, repair="none"):
    """A model in the middle of the warm-up of a head and of a block of neurons."""
    model = PlasticModel(build("gpt2"), mlp_blocks=2)
    mask = torch.zeros(model.shape, dtype=torch.bool)
    mask[0, 1] = mask[1, 4] = True
    model.prune(mask)
    model.grow(mask, 0.01, 4, torch.Generator().manual_seed(0))
    mask[:] = False
    mask[0, 2] = True  # what the repair makes up for
    model.prune(mask)
    repair_model(model, repair, ids)
    model.advance_warmup(2)
    return model


@torch.no_grad()
def test_the_model_computes_what_it_did_and_its_gates_are_open(ids):
    for repair in ("none", "bias", "least_squares", "sequential_mlp"):
        model = grown(ids, repair)
        assert 0 < float(model.gates[0, 1]) < 1
        before = model(input_ids=ids).logits
        settle_gates(model)
        assert torch.equal(model.gates, model.active.float())
        assert torch.allclose(model(input_ids=ids).logits, before, atol=1e-4)
        model.advance_warmup()
        assert torch.equal(model.gates, model.active.float())


@torch.no_grad()
def test_a_repair_can_still_be_taken_back(ids):
    model = grown(ids, "least_squares")
    same = grown(ids, "none")
    settle_gates(model)
    settle_gates(same)
    model.undo_repair()
    assert torch.allclose(model(input_ids=ids).logits, same(input_ids=ids).logits, atol=1e-4)


def test_without_a_half_open_gate_nothing_changes(ids):
    model = PlasticModel(build("gpt2"))
    version = model.weight_version
    settle_gates(model)
    assert model.weight_version == version
