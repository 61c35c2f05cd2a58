"""An edit that fails changes nothing: mask, gates, weights, saved weights and repairs are those of before, in every layout."""

from __future__ import annotations

import pytest
import torch

from plasticity_env import InputError, PlasticModel
from plasticity_env.model.guards import raw_state
from plasticity_env.repair.sequential import repair_in_order
from plasticity_env.repair.whole import repair_model
from tests.conftest import HEADS_ONLY, build

LAYOUTS = pytest.mark.parametrize(
    "architecture",
    ["gpt2", "llama", "gpt_neox", "phi3", "falcon", "gpt_oss", "olmo2", "stablelm_norms"],
)
FIRST_AND_LAST = torch.tensor([[True, False, False, False], [False, False, False, True]])


def heads_of(model, mask):
    wide = torch.zeros(model.shape, dtype=torch.bool)
    wide[:, : model.heads] = mask
    return wide


def lived(architecture):
    """A model with pruned heads, one of them growing, a pruned block of neurons and a repair of weights and bias."""
    model = PlasticModel(build(architecture), mlp_blocks=0 if architecture in HEADS_ONLY else 2)
    gone = heads_of(model, FIRST_AND_LAST)
    gone[0, 2] = True
    gone[0, model.heads :] = True
    model.prune(gone)
    growing = torch.zeros_like(gone)
    growing[0, 2] = True
    model.grow(growing, generator=torch.Generator().manual_seed(0))
    model.apply_repair(0, 1.1 * model.sites[0].output_weight(), torch.ones(64))
    return model


def state(model):
    snapshot = model.snapshot()
    aside = {f"saved {key}": tensor for key, tensors in snapshot.saved.items() for tensor in tensors}
    repairs = {f"repair {site}": repair.base for site, repair in snapshot.repairs.items()}
    gates = {"active": snapshot.active, "scale": snapshot.scale, "warmup": snapshot.warmup}
    return {**snapshot.weights, **gates, **aside, **repairs}


def assert_same(model, before):
    after = state(model)
    assert after.keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    for repair in model.repairs.values():
        assert repair.version == model.weight_version  # so that it is taken back to the bit


def no_weights(model, layer, unit, pieces, generator):
    if layer == 1:
        raise ZeroDivisionError
    return [torch.zeros_like(piece.data) for piece in pieces]


def other_shapes(model, layer, unit, pieces, generator):
    return [torch.zeros(3, 3) if layer == 1 else torch.zeros_like(piece.data) for piece in pieces]


def fewer(model, layer, unit, pieces, generator):
    return [torch.zeros_like(piece.data) for piece in pieces][:-1]


def wrong_weights(model):
    return {name: 2 * value for name, value in raw_state(model.model).items()}


EDITS = {
    "grow, no weights": (ZeroDivisionError, lambda m: m.grow(heads_of(m, FIRST_AND_LAST), weights=no_weights)),
    "grow, other shapes": (InputError, lambda m: m.grow(heads_of(m, FIRST_AND_LAST), weights=other_shapes)),
    "grow, fewer": (InputError, lambda m: m.grow(heads_of(m, FIRST_AND_LAST), weights=fewer)),
    "grow, scale": (InputError, lambda m: m.grow(heads_of(m, FIRST_AND_LAST), initial_scale=0.0)),
    "prune all": (InputError, lambda m: m.prune(heads_of(m, torch.ones(2, 4, dtype=torch.bool)))),
    "no head": (InputError, lambda m: m.set_active(~heads_of(m, torch.ones(2, 4, dtype=torch.bool)))),
    "another mask": (InputError, lambda m: m.revive(torch.ones(3, 3, dtype=torch.bool))),
    "weight of a repair": (InputError, lambda m: m.apply_repair(0, torch.ones(3, 3), None)),
    "bias of a repair": (InputError, lambda m: m.apply_repair(0, m.sites[0].output_weight(), torch.ones(3))),
    "weights, one missing": (RuntimeError, lambda m: m.load_state_dict(dict([*wrong_weights(m).items()][:-1]))),
    "weights, a shape": (
        RuntimeError,
        lambda m: m.load_state_dict(wrong_weights(m) | {[*wrong_weights(m)][-1]: torch.ones(3)}),
    ),
    "repair, unknown ids": (InputError, lambda m: repair_model(m, "least_squares", torch.full((1, 9), 5000))),
    "repair in order": (InputError, lambda m: repair_in_order(m, torch.full((1, 9), 5000))),
}


@LAYOUTS
def test_an_edit_that_fails_changes_nothing(architecture):
    model = lived(architecture)
    before = state(model)
    for name, (kind, edit) in EDITS.items():
        try:
            edit(model)
        except kind:
            assert_same(model, before)
        else:
            pytest.fail(f"{name} did not fail")
    model.undo_repair()
    model.revive(~model.active)
    stock = PlasticModel(build(architecture), mlp_blocks=model.mlp_blocks)
    for name, value in raw_state(stock.model).items():
        grown = "layers.0." in name or ".h.0." in name
        assert grown or torch.equal(raw_state(model.model)[name], value), name


def test_a_repair_that_fails_half_way_leaves_the_one_before(monkeypatch):
    model = lived("llama")
    before, calls = state(model), []
    whole = PlasticModel.apply_repair

    def failing(self, site, weight, bias):
        calls.append(site)
        if len(calls) == 2:
            raise RuntimeError("no memory")
        whole(self, site, weight, bias)

    monkeypatch.setattr(PlasticModel, "apply_repair", failing)
    text = torch.randint(1, 128, (8, 32), generator=torch.Generator().manual_seed(3))
    for name in ("sequential", "least_squares"):
        calls.clear()
        with pytest.raises(RuntimeError, match="no memory"):
            repair_model(model, name, text)
        assert_same(model, before)
