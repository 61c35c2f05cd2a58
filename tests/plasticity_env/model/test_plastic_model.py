"""The state machine of a head: prune, revive, grow, snapshots, training."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from plasticity_env import InputError, PlasticModel, kv_cache_bytes, measure
from plasticity_env.model.contexts import frozen
from plasticity_env.model.flops import parameter_table
from plasticity_env.repair.whole import repair_model
from tests.conftest import CONFIGS, build, same


def heads(*pairs):
    mask = torch.zeros(2, 4, dtype=torch.bool)
    for layer, head in pairs:
        mask[layer, head] = True
    return mask


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["prune", "revive"]), st.integers(0, 255)), max_size=6))
def test_any_walk_back_to_all_active_is_the_stock_model(walk):
    model = PlasticModel(build("llama"))
    ids = torch.arange(12).view(1, 12)
    with torch.no_grad():
        stock = model(ids).logits
        expected = torch.ones(2, 4, dtype=torch.bool)
        for edit, bits in walk:
            mask = torch.tensor([bits >> i & 1 for i in range(8)], dtype=torch.bool).view(2, 4)
            if edit == "prune" and bool((expected & ~mask).sum() == 0):
                continue  # one head of the model stays
            getattr(model, edit)(mask)
            expected = expected & ~mask if edit == "prune" else expected | mask
            assert torch.equal(model.active, expected)
        model.revive(~model.active)
        assert torch.equal(model(ids).logits, stock)


def test_state_dict_keeps_stock_names_and_shapes(architecture):
    stock = {name: value.shape for name, value in build(architecture).state_dict().items()}
    model = PlasticModel(build(architecture))
    assert {name: value.shape for name, value in model.state_dict().items()} == stock
    model.prune(heads((0, 1)))
    pruned = {name: value.shape for name, value in model.state_dict().items()}
    assert {name: shape for name, shape in pruned.items() if not name.startswith("plasticity.")} == stock


def test_pruned_heads_do_not_train(architecture, ids):
    model = PlasticModel(build(architecture))
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.5)

    def step():
        optimizer.zero_grad()
        model(ids, labels=ids).loss.backward()
        with model.frozen_heads(optimizer):
            optimizer.step()

    step()  # moments are not zero when the heads go
    gone = heads((0, 0), (0, 1), (1, 3))
    model.prune(gone)
    pieces = [p for layer, head in gone.nonzero().tolist() for p in model.blocks[layer].head_slices(head)]
    pieces += [p for layer, head in gone.nonzero().tolist() for p in model.blocks[layer].own_parts(head, "head")]
    dead = gone.unflatten(1, (-1, model.blocks[0].group_size)).all(2)  # KV groups that no head reads any more
    for layer, group in dead.nonzero().tolist():
        pieces += model.blocks[layer].group_slices(group) + model.blocks[layer].own_parts(group, "group")
    before = [(p.data.clone(), p.narrow(optimizer.state[p.parameter]["exp_avg"]).clone()) for p in pieces]
    other = model.blocks[0].query_slices(2)[0].data.clone()
    for _ in range(3):
        step()
    for piece, (data, moment) in zip(pieces, before, strict=True):
        assert torch.equal(piece.data, data)
        assert torch.equal(piece.narrow(optimizer.state[piece.parameter]["exp_avg"]), moment)
    assert not torch.equal(model.blocks[0].query_slices(2)[0].data, other)


def test_revive_restores_the_weights_at_the_last_prune():
    model = PlasticModel(build("gpt2"))
    where = model.blocks[1].output_slice(2)
    with torch.no_grad():
        where.data.add_(1.0)
    trained = where.data.clone()
    model.prune(heads((1, 2)))
    with torch.no_grad():
        where.data.zero_()
    model.revive(heads((1, 2)))
    assert torch.equal(where.data, trained)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])  # with a bias of its own, and without
def test_a_repair_that_training_passed_is_taken_back_by_what_it_added(architecture):
    model = PlasticModel(build(architecture))
    site = model.sites[2]
    before = site.output_weight().clone()
    bias = None if site.output.bias is None else site.output.bias.data.clone()
    noise = torch.randn(before.shape, generator=torch.Generator().manual_seed(0))
    model.apply_repair(2, before + noise, noise[0])
    with torch.no_grad():
        site.output_weight().add_(0.25)
        site.output.bias.add_(0.25)
    model.weights_changed()
    model.undo_repair()
    torch.testing.assert_close(site.output_weight(), before + 0.25, atol=1e-5, rtol=1e-5)
    if bias is None:
        assert site.output.bias is None
    else:
        torch.testing.assert_close(site.output.bias.data, bias + 0.25, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("edit", ["prune", "revive", "grow", "make_dense"])
def test_an_edit_takes_the_repair_of_what_it_edits_back(edit):
    model = PlasticModel(build("llama"))
    before = model.sites[2].output_weight().clone()
    if edit in ("revive", "grow"):
        model.prune(heads((1, 3)))
    for site in (0, 2):
        model.apply_repair(site, model.sites[site].output_weight() + 1, None)
    if edit == "make_dense":
        model.make_dense()
        assert model.repaired_sites == []
    else:
        getattr(model, edit)(heads((1, 3)))
        assert model.repaired_sites == [0]
    assert torch.equal(model.sites[2].output_weight()[:48], before[:48])  # the rows of the other heads


def test_a_revival_that_brings_other_weights_back_is_a_new_version():
    model = PlasticModel(build("gpt2"))
    model.prune(heads((1, 2)))
    model.blocks[1].output_slice(2).data.zero_()
    model.weights_changed()
    changed = model.weight_version
    model.revive(heads((1, 2)))
    assert model.weight_version != changed
    version = model.weight_version
    model.prune(heads((1, 2)))
    model.revive(heads((1, 2)))  # the same weights as before
    assert model.weight_version == version


def test_new_weights_that_are_too_few_are_an_error():
    model = PlasticModel(build("gpt2"))
    model.prune(heads((1, 2)))
    with pytest.raises(InputError, match="the new weights of a unit must have shapes"):
        model.grow(heads((1, 2)), weights=lambda model, layer, unit, pieces, generator: [pieces[0].data.clone()])


def test_moments_of_keys_and_values_are_forgotten_with_the_last_head_that_reads_them(ids):
    model = PlasticModel(build("llama"))
    optimizer = torch.optim.AdamW(model.parameters())
    model(ids, labels=ids).loss.backward()
    optimizer.step()

    def moving(kind, index):
        pieces = model.pieces(0, index, kind)
        return {bool(piece.narrow(optimizer.state[piece.parameter]["exp_avg"]).any()) for piece in pieces}

    model.forget_moments(heads((0, 2)), optimizer)  # head 3 reads the same keys and is active
    assert moving("unit", 2) == {False}
    assert moving("unit", 3) == moving("group", 1) == {True}
    model.prune(heads((0, 2)))
    model.forget_moments(heads((0, 3)), optimizer)
    assert moving("unit", 3) == moving("group", 1) == {False}
    assert moving("unit", 0) == moving("group", 0) == {True}


def test_a_model_of_one_layer(ids):
    config = CONFIGS["gpt2"]()
    config.n_layer = 1
    stock = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        expected = stock(ids).logits
    model = PlasticModel(stock, mlp_blocks=1)
    assert torch.equal(model(ids).logits, expected)
    assert parameter_table(model).total(model.active) == sum(p.numel() for p in stock.parameters())
    assert kv_cache_bytes(model) == kv_cache_bytes(stock) == 2 * 64 * 4  # a key and a value of 64 float32 a token
    found = measure(model, ids)
    assert found.gradient.shape == (1, 5)
    assert float(found.loss) == pytest.approx(stock(ids, labels=ids).loss.item())


def test_what_pruning_keeps_aside_is_handed_out_as_copies():
    model = PlasticModel(build("llama"))
    before = [piece.data.clone() for piece in model.pieces(0, 2, "unit")]
    assert model.saved_weights(0, 2) is None
    model.prune(heads((0, 2)))
    saved = model.saved_weights(0, 2)
    assert all(torch.equal(kept, weight) for kept, weight in zip(saved, before, strict=True))
    saved[0].zero_()
    assert torch.equal(model.saved_weights(0, 2)[0], before[0])


def test_grow_starts_small_and_warms_up(architecture, ids):
    model = PlasticModel(build(architecture))
    model.prune(heads((0, 1), (1, 2)))
    with torch.no_grad():
        pruned = model(ids).logits
    old = model.blocks[0].output_slice(1).data.clone()
    model.grow(heads((0, 1)), initial_scale=0.01, warmup_steps=10, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        change = (model(ids).logits - pruned).abs().max()
    assert 1e-4 * pruned.abs().max() < change < 0.05 * pruned.abs().max()
    assert not torch.equal(model.blocks[0].output_slice(1).data, old)
    scales = []
    for _ in range(12):
        scales.append(float(model.scale[0, 1]))
        model.advance_warmup()
    expected = [0.01 + 0.99 * min(1.0, t / 10) for t in range(12)]
    assert scales == pytest.approx(expected, abs=1e-5)
    grown = model.blocks[0].output_slice(1).data.clone()
    model.prune(heads((0, 1)))
    model.revive(heads((0, 1)))  # brings the grown weights back, the older copy is discarded
    assert torch.equal(model.blocks[0].output_slice(1).data, grown)


def test_snapshot_and_restore_are_exact(architecture, ids):
    model = PlasticModel(build(architecture))
    model.prune(heads((0, 3)))
    snapshot = model.snapshot()
    with torch.no_grad():
        before = model(ids).logits
        model.prune(heads((0, 0), (1, 1)))
        model.grow(heads((0, 3)))
        for parameter in model.parameters():
            parameter.add_(0.1)
        model.weights_changed()
        model.restore(snapshot)
        assert torch.equal(model(ids).logits, before)
        model.revive(heads((0, 3)))
        assert torch.equal(model(ids).logits, PlasticModel(build(architecture))(ids).logits)


def test_loading_weights_takes_repairs_back_and_refreshes_what_is_saved(ids):
    model, other = PlasticModel(build("gpt2")), build("gpt2", seed=1)
    model.prune(heads((0, 1)))
    model.apply_repair(0, model.blocks[0].output_weight() + 1, torch.ones(64))
    model.load_state_dict(other.state_dict())
    model.revive(heads((0, 1)))
    with torch.no_grad():
        assert torch.equal(model(ids).logits, other(ids).logits)


def test_changing_the_type_takes_saved_heads_and_repairs_along(ids):
    model = PlasticModel(build("llama"))
    with torch.no_grad():
        dense = model(ids).logits.double()
        model.prune(heads((0, 1), (1, 0), (1, 1)))
        model.apply_repair(2, model.blocks[1].output_weight() * 2, None)
        model.double()
        assert {weights.dtype for weights in model.saved_weights(0, 1)} == {torch.float64}
        model.undo_repair()
        model.revive(~model.active)
        assert torch.allclose(model(ids).logits, dense, atol=1e-5)


def test_compressed_mode_never_brings_a_head_back():
    model = PlasticModel(build("llama"), mode="compressed")
    model.prune(heads((0, 1)))
    for edit in (model.revive, model.grow):
        with pytest.raises(InputError, match="compressed mode"):
            edit(heads((0, 1)))
    assert not model.active[0, 1]


@pytest.mark.parametrize(
    "mask", [torch.zeros(4, 2, dtype=torch.bool), torch.zeros(2, 4), torch.zeros(8, dtype=torch.bool)]
)
def test_a_wrong_mask_is_refused_and_nothing_changes(mask):
    model = PlasticModel(build("gpt2"))
    with pytest.raises(InputError, match=r"boolean of shape \(2, 4\)"):
        model.prune(mask)
    assert model.active.all()


def test_measuring_a_pruned_head_in_a_half_dead_group(ids):
    model = PlasticModel(build("llama"))
    model.prune(heads((0, 0)))
    assert torch.isfinite(measure(model, ids).obs).all()


@pytest.mark.parametrize("trained", [False, True])
def test_dense_for_a_moment_and_then_repaired_as_before(architecture, trained, ids):
    model = PlasticModel(build(architecture))
    model.prune(heads((0, 1), (1, 2)))
    repair_model(model, "least_squares", ids)
    model.apply_repair(1, None, torch.ones(model.sites[1].output_weight().shape[1]))
    if trained:
        for parameter in model.parameters():
            parameter.data.mul_(1.01)
        model.weights_changed()
    dense = copy.deepcopy(model)
    dense.undo_repair()
    before, repairs = {name: value.clone() for name, value in model.state_dict().items()}, model.repairs
    version, active = model.weight_version, model.active
    with torch.no_grad(), model.dense():
        logits = model(ids).logits
        assert not model.repaired_sites
    with torch.no_grad(), dense.open_gates():
        assert torch.equal(logits, dense(ids).logits)
        assert trained or same(architecture, logits, build(architecture)(ids).logits)
    assert model.repairs.keys() == repairs.keys()
    assert all(model.repairs[site] is repair for site, repair in repairs.items())
    assert model.weight_version == version
    assert torch.equal(model.active, active)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_newer_wrapper_takes_the_place_of_one_that_prunes_nothing():
    stock = build("gpt2")
    former = PlasticModel(stock)
    snapshot, newer = former.snapshot(), PlasticModel(stock)
    edits = (
        lambda: former.prune(heads((0, 1))),
        lambda: former.set_active(heads((0, 1))),
        lambda: former.restore(snapshot),
        former.snapshot,
    )
    for edit in edits:
        with pytest.raises(InputError, match="took its place"):
            edit()
    newer.prune(heads((0, 1)))
    with pytest.raises(InputError, match="pass that one instead"):
        PlasticModel(stock)
    assert int(newer.active.sum()) == 7
    newer.revive(heads((0, 1)))


@pytest.mark.parametrize("inner", [False, True])
def test_every_modules_mode_is_its_own_again(inner, ids):
    model = PlasticModel(build("gpt2"))
    model.eval()
    some = model.model.transformer.h[0]
    some.train(inner)
    with frozen(model):
        assert not any(module.training for module in model.modules())
    assert all(module.training == inner for module in some.modules())
    assert not model.training
    assert not model.model.training
