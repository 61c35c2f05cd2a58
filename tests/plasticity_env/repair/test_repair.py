"""Repair: closed forms against brute force, exactness of undoing, and that it helps."""

from __future__ import annotations

import math

import pytest
import torch

from plasticity_env import InputError, PlasticModel, load_model, load_text, mean_loss, measure
from plasticity_env.envs.measurement import Request
from plasticity_env.model.layouts import transformer_layers
from plasticity_env.repair import METHODS, Moments, bias, least_squares, repair_in_order, repair_sites, scale
from plasticity_env.repair.registry import REPAIRS
from plasticity_env.repair.sequential import PULLS, Regression, chosen_pull
from plasticity_env.repair.whole import repair_model
from tests.conftest import HEADS_ONLY, build


def test_least_squares_minimises_its_objective():
    generator = torch.Generator().manual_seed(0)
    x = (
        torch.randn(200, 12, generator=generator, dtype=torch.float64)
        @ torch.randn(12, 12, generator=generator).double()
    )
    weight = torch.randn(12, 5, generator=generator, dtype=torch.float64)
    gram, kept = x.t() @ x / len(x), torch.arange(12) % 3 != 0
    repaired = least_squares(weight, Moments(gram[None], x.mean(0)[None]), kept[None], ridge=0.01).weight[0]
    penalty = 0.01 * gram.diagonal().mean()
    free = weight[kept].clone().requires_grad_()
    residual = x[:, kept] @ free - x @ weight
    objective = residual.square().sum() / len(x) + penalty * (free - weight[kept]).square().sum()
    (slope,) = torch.autograd.grad(objective, free)
    at_repair = (x[:, kept] @ repaired[kept] - x @ weight).square().sum() / len(x) + penalty * (
        repaired[kept] - weight[kept]
    ).square().sum()
    assert at_repair < objective
    free2 = repaired[kept].clone().requires_grad_()
    again = (x[:, kept] @ free2 - x @ weight).square().sum() / len(x) + penalty * (free2 - weight[kept]).square().sum()
    (zero,) = torch.autograd.grad(again, free2)
    assert zero.abs().max() < 1e-8 * slope.abs().max()
    assert torch.equal(repaired[~kept], weight[~kept])


def test_unless_told_otherwise_the_ridge_is_a_hundredth_of_the_mean_second_moment():
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moments, kept = Moments((x.t() @ x / 50)[None], x.mean(0)[None]), torch.tensor([[True, False] * 4])
    weight = torch.eye(8, dtype=torch.float64)
    assert torch.equal(
        least_squares(weight, moments, kept).weight, least_squares(weight, moments, kept, ridge=0.01).weight
    )


@pytest.mark.parametrize("name", sorted(REPAIRS))
def test_a_repair_by_name_does_what_the_name_says(name, ids):
    model, expected = PlasticModel(build("llama")), PlasticModel(build("llama"))
    statistics = measure(expected, ids, statistics=True).statistics
    mask = torch.tensor([[False, True, False, False], [True, False, False, True]])
    for each in (model, expected):
        each.prune(mask)
    repair_model(model, name, ids)
    if name.startswith("sequential"):
        repair_in_order(expected, ids, mlp="_mlp" in name, weighted="_unweighted" not in name)
    elif name != "none":
        repair_sites(expected, name, statistics)
    assert model.repaired_sites == expected.repaired_sites
    for mine, other in zip(model.sites, expected.sites, strict=True):
        torch.testing.assert_close(mine.output_weight(), other.output_weight(), rtol=1e-4, atol=1e-5)
        assert (mine.output.bias is None) == (other.output.bias is None)


def test_bias_repair_is_the_mean_output_of_what_was_pruned():
    weight, mean = torch.randn(6, 3).double(), torch.randn(6).double()
    kept = torch.tensor([True, True, False, False, True, True])
    moments = Moments(torch.eye(6).double()[None], mean[None])
    assert torch.allclose(bias(weight, moments, kept[None]).bias, mean[2:4] @ weight[2:4])


@pytest.mark.parametrize("method", ["bias", "least_squares"])
def test_revive_undoes_repair_exactly(architecture, method, ids):
    model = PlasticModel(build(architecture))
    signals = measure(model, ids, statistics=True)
    with torch.no_grad():
        dense = model(ids).logits
        mask = torch.zeros(2, 4, dtype=torch.bool)
        mask[0, 1] = mask[1, 0] = mask[1, 3] = True
        model.prune(mask)
        pruned = model(ids).logits
        repair_sites(model, method, signals.statistics)
        assert (model(ids).logits - pruned).abs().max() > 1e-3 * pruned.abs().max()
        snapshot = model.snapshot()
        repaired = model(ids).logits
        model.revive(mask)
        assert torch.equal(model(ids).logits, dense)
        model.restore(snapshot)
        assert torch.allclose(model(ids).logits, repaired, atol=1e-6)
        model.undo_repair()
        model.revive(mask)
        assert torch.equal(model(ids).logits, dense)


def test_repair_lowers_the_loss_on_text_it_never_saw():
    model, tokenizer, _ = load_model("bard-gpt2-4x4")
    text = load_text("shakespeare", tokenizer, block_size=128)
    calibration, held_out = text.blocks("calibration")[:32], text.blocks("reward")[:16]
    signals = measure(model, calibration, statistics=True)
    dense = mean_loss(model, held_out)
    order = signals.fisher.flatten().argsort()
    mask = torch.zeros(model.active.numel(), dtype=torch.bool)
    mask[order[:5]] = True
    losses = {}
    for method in ("none", "bias", "least_squares"):
        model.undo_repair()
        model.set_active(~mask.view(model.shape))
        if method != "none":
            repair_sites(model, method, signals.statistics)
        losses[method] = mean_loss(model, held_out) - dense
    assert losses["least_squares"] < losses["bias"] < losses["none"]
    assert losses["least_squares"] < 0.7 * losses["none"]


def test_statistics_that_are_not_finite_are_refused():
    gram = torch.full((1, 4, 4), float("nan"), dtype=torch.float64)
    with pytest.raises(InputError, match="not finite"):
        least_squares(torch.zeros(4, 2), Moments(gram, gram[:, 0]), torch.tensor([[True, True, False, False]]))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_masks_together_are_repaired_as_one_by_one(method):
    random = torch.Generator().manual_seed(0)
    x = torch.randn(6, 50, 12, generator=random, dtype=torch.float64)
    moments = Moments(x.mT @ x / 50, x.mean(1))
    weight = torch.randn(12, 7, generator=random)
    kept = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 1, 1], [0, 0, 0], [1, 0, 0]], dtype=torch.bool)
    kept = kept.repeat_interleave(4, 1)
    found = METHODS[method](weight, moments, kept, 4, 0.01)
    for index in range(6):
        own = Moments(moments.gram[index : index + 1], moments.mean[index : index + 1])
        alone = METHODS[method](weight, own, kept[index : index + 1], 4, 0.01)
        for together, one in ((found.weight, alone.weight), (found.bias, alone.bias)):
            assert (together is None) == (one is None)
            if one is not None:
                torch.testing.assert_close(together[index], one[0])
    for index in (0, 4):  # with all, or none, there is nothing to refit
        if found.weight is not None:
            assert torch.equal(found.weight[index], weight)


def test_scale_minimises_its_objective_over_factors_of_units():
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    x = torch.randn(300, 12, generator=generator, dtype=torch.float64) @ mix
    weight = torch.randn(12, 5, generator=generator, dtype=torch.float64)
    kept = torch.ones(12, dtype=torch.bool)
    kept[3:6] = False  # units of three inputs
    moments = Moments((x.t() @ x / len(x))[None], x.mean(0)[None])
    change = scale(weight, moments, kept[None], 3, ridge=0.02)
    factors = (change.weight[0] / weight)[:, 0].view(4, 3)
    assert torch.allclose(factors, factors[:, :1].expand(4, 3))  # one factor a unit
    units = torch.stack([x[:, 3 * u : 3 * u + 3] @ weight[3 * u : 3 * u + 3] for u in range(4)])  # (4, tokens, 5)
    penalty = 0.02 * units.square().sum((1, 2)).mean() / len(x)
    free = factors[[0, 2, 3], 0].clone().requires_grad_()
    error = (torch.einsum("u,utd->td", free, units[[0, 2, 3]]) - x @ weight).square().sum() / len(x)
    (slope,) = torch.autograd.grad(error + penalty * (free - 1).square().sum(), free)
    assert slope.abs().max() < 1e-9 * float(units.square().sum() / len(x))


@pytest.mark.parametrize("weighted", [False, True])
def test_sequential_repair_of_one_layer_is_ridge_regression_around_the_parallel_solution(weighted, ids):
    model = PlasticModel(build("llama"))
    mask = torch.zeros(2, 4, dtype=torch.bool)
    mask[1, 2] = True  # nothing before it is pruned: its inputs are the dense ones
    weight = model.blocks[1].output_weight().clone()
    seen = {}
    site, layer = model.blocks[1].output, transformer_layers(model.model)[1]
    hooks = [
        site.register_forward_pre_hook(lambda module, args: seen.update(x=args[0].flatten(0, 1).double())),
        layer.register_forward_hook(lambda module, args, out: seen.update(stream=out.flatten(0, 1).double())),
    ]
    with torch.no_grad():
        model.model(ids)
    for hook in hooks:
        hook.remove()
    model.prune(mask)
    repair_in_order(model, ids, ridge=0.01, pull=0.3, weighted=weighted)
    kept = torch.ones(64, dtype=torch.bool)
    kept[32:48] = False
    x, rows = seen["x"], weight[kept].double()
    share = 1 / seen["stream"].square().mean(1, keepdim=True).sqrt() if weighted else torch.ones(len(x), 1).double()
    for penalty, scaled in ((0.01, x), (0.3, x * share)):
        gram = scaled.t() @ scaled
        inside, wanted = gram[kept][:, kept], gram[kept] @ weight.double()
        pull = penalty * (gram if penalty == 0.01 else inside).diagonal().mean()
        rows = torch.linalg.solve(inside + pull * torch.eye(48, dtype=torch.float64), wanted + pull * rows)
    assert torch.allclose(model.blocks[1].output_weight()[kept].double(), rows, atol=1e-4)
    assert model.repaired_sites == [2]


def test_a_massive_token_does_not_decide_a_sequential_repair(ids):
    """The first MLP makes the first token's stream a thousand times as large; what the others lose is what counts."""
    text = torch.where(ids == 7, 8, ids)
    text[:, 0] = 7
    errors = {}
    for weighted in (False, True):
        model = PlasticModel(build("llama"))
        mlp, seen = transformer_layers(model.model)[0].mlp, {}
        with torch.no_grad(), model.open_gates():
            hook = mlp.register_forward_pre_hook(lambda module, args, seen=seen: seen.update(x=args[0]))
            model.model(text)
            hook.remove()
            first = seen["x"][0, 0]
            mlp.gate_proj.weight[0] = mlp.up_proj.weight[0] = (
                first / first.norm()
            )  # a neuron that knows the first token
            mlp.down_proj.weight[:, 0] = 10 * first
            dense = model.model(text).logits[:, 1:]
        model.prune(torch.tensor([[True, False, False, True], [False, False, False, True]]))
        with torch.no_grad():
            repair_in_order(model, text, pull=0.03, weighted=weighted)
            errors[weighted] = float((model.model(text).logits[:, 1:] - dense).norm())
    assert errors[True] < 0.9 * errors[False]


@pytest.mark.parametrize("mlp", [False, True])
def test_sequential_repair_brings_the_residual_stream_back(architecture, mlp, ids):
    model = PlasticModel(build(architecture))
    if mlp and architecture in HEADS_ONLY:
        with pytest.raises(InputError, match="no MLP whose output projection could be refitted"):
            repair_in_order(model, ids, mlp=True)
        return
    mask = torch.tensor([[True, False, False, True], [False, True, False, False]])
    with torch.no_grad():
        dense = model.model(ids, output_hidden_states=True)
        model.prune(mask)
        pruned = model.model(ids, output_hidden_states=True)
        repair_in_order(model, ids, mlp=mlp)
        repaired = model.model(ids, output_hidden_states=True)
        assert model.repaired_sites == ([0, 1, 2, 3] if mlp else [block.index for block in model.blocks])
        for layer in (1, 2):
            before = (pruned.hidden_states[layer] - dense.hidden_states[layer]).norm()
            assert (repaired.hidden_states[layer] - dense.hidden_states[layer]).norm() < before
        model.revive(mask)
        model.undo_repair()
        assert torch.equal(model(ids).logits, dense.logits)


def test_a_refitted_mlp_makes_up_for_what_is_left_of_the_attention_error(ids):
    model = PlasticModel(build("llama"))
    layer, seen = transformer_layers(model.model)[1], {}
    weight = model.sites[3].output_weight().clone()

    def look():
        hooks = [
            site.output.register_forward_hook(
                lambda module, args, out, name=name: seen.update({name: (args[0].flatten(0, 1), out.flatten(0, 1))})
            )
            for name, site in (("attention", model.sites[2]), ("mlp", model.sites[3]))
        ]
        with torch.no_grad():
            model.model(ids)
        for hook in hooks:
            hook.remove()
        return dict(seen)

    dense = look()
    model.prune(torch.tensor([[False] * 4, [False, True, False, True]]))
    repair_in_order(model, ids, mlp=True, pull=0.1, weighted=False)
    now = look()  # the MLP's input, and what the repaired attention writes
    assert layer.mlp.down_proj is model.sites[3].output
    x = now["mlp"][0].double()
    target = (dense["mlp"][1] + dense["attention"][1] - now["attention"][1]).double()
    penalty = 0.1 * (x.t() @ x).diagonal().mean()
    system = x.t() @ x + penalty * torch.eye(x.shape[1], dtype=torch.float64)
    expected = torch.linalg.solve(system, x.t() @ target + penalty * weight.double())
    assert torch.allclose(model.sites[3].output_weight().double(), expected, atol=1e-4)
    assert (expected - weight).abs().max() > 1e-3


def test_the_pull_is_chosen_on_text_that_the_fit_did_not_see():
    generator = torch.Generator().manual_seed(0)
    truth, anchor = (torch.randn(20, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    learnable, noise = ([Regression.empty(20, 3, torch.device("cpu")) for _ in range(2)] for _ in range(2))
    for half in range(2):
        x = torch.randn(30, 20, generator=generator, dtype=torch.float64)
        learnable[half].add(x, x @ truth)
        noise[half].add(x, x @ anchor + torch.randn(30, 3, generator=generator, dtype=torch.float64))
    assert chosen_pull(learnable, anchor) == PULLS[0] / 2
    assert chosen_pull(noise, anchor) == math.inf


def test_a_model_in_training_mode_is_repaired_without_dropout(ids):
    weights = []
    for training in (False, True):
        model = PlasticModel(build("gpt2")).train(training)
        for module in model.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.5
        model.prune(torch.tensor([[False, True, False, False], [False] * 4]))
        repair_in_order(model, ids, pull=0.3)
        assert model.model.training == training
        weights.append(model.blocks[0].output_weight().clone())
    assert torch.equal(*weights)


@pytest.mark.parametrize("repair", ["sequential", "sequential_mlp"])
def test_a_sequential_repair_is_whole_again_after_another_mask_was_only_looked_up(repair, make_env):
    env = make_env(repair=repair, max_sparsity=1.0).unwrapped
    env.reset(seed=0)
    bench, state = env.workbench, env.get_state()["episode"]
    one, other, dense = (torch.ones(4, 4, dtype=torch.bool) for _ in range(3))
    one[1, 0] = one[2, 1] = False
    other[1, 0] = False
    requests = [Request(mask, state.calibration, state.reward) for mask in (dense, one, other)]
    losses = [found.loss for found in bench.measure(requests)]
    bench.install(one, state.calibration)
    sites = bench.model.repaired_sites
    bench.measure(requests[-1:])  # the memo knows it: some of the repair goes
    assert bench.model.repaired_sites != sites
    bench._split_losses.clear()
    bench.memo.clear()
    again = [bench.reward_loss(state.request(mask)) for mask in (one, dense, other)]
    assert again == pytest.approx([losses[1], losses[0], losses[2]], rel=1e-6)


def test_sequential_repair_beats_parallel_where_much_is_pruned():
    model, tokenizer, _ = load_model("bard-llama-4x8")
    text = load_text("shakespeare", tokenizer, block_size=128)
    calibration, held_out = text.blocks("calibration")[:32], text.blocks("reward")[:8]
    signals = measure(model, calibration, statistics=True)
    dense = mean_loss(model, held_out)
    mask = torch.ones(model.active.numel(), dtype=torch.bool)
    mask[signals.fisher.flatten().argsort()[: len(mask) // 2]] = False
    model.set_active(mask.view(model.shape))
    repair_sites(model, "least_squares", signals.statistics)
    parallel = mean_loss(model, held_out) - dense
    repair_in_order(model, calibration)
    assert mean_loss(model, held_out) - dense < 0.9 * parallel


def test_only_what_changed_is_solved_again(make_env):
    env = make_env(repair="least_squares", max_sparsity=1.0).unwrapped
    env.reset(seed=0)
    bench, blocks = env.workbench, env.get_state()["episode"].calibration
    mask = torch.ones(4, 4, dtype=torch.bool)
    mask[:, 0] = False
    bench.install(mask, blocks)
    before = bench.model.repairs
    assert sorted(before) == [0, 2, 4, 6]
    mask[1, 2] = mask[3, 1] = False
    bench.install(mask, blocks)
    after = bench.model.repairs
    assert [site for site in after if after[site] is not before[site]] == [2, 6]


def test_repair_that_fails_leaves_the_model_untouched(ids):
    model = PlasticModel(build("gpt2"))
    statistics = measure(model, ids, statistics=True).statistics
    statistics.sites[2].gram[0, 0] = float("nan")
    mask = torch.zeros(2, 4, dtype=torch.bool)
    mask[:, 1] = True
    model.prune(mask)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(InputError, match="not finite"):
        repair_sites(model, "least_squares", statistics)
    with pytest.raises(InputError, match="12 calibration tokens do not determine 64 inputs with a ridge of 1e-06"):
        repair_in_order(model, ids[:1], ridge=1e-6)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.repaired_sites == []


def test_the_last_head_of_the_model_cannot_be_pruned(ids):
    model = PlasticModel(build("gpt2"))
    with pytest.raises(InputError, match="keep at least one head active"):
        model.prune(torch.ones(2, 4, dtype=torch.bool))
    assert bool(model.active.all())
