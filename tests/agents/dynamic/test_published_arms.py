"""Published systems as arms: how many heads go, what is billed, that a seed repeats them, and that routers learn the obvious."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from torch import nn

from plasticity_env import InputError, PlasticModel
from plasticity_env.agents.studies.dynamic.published import probe_pruning
from plasticity_env.agents.studies.dynamic.published.arm_cells import ArmCell, ArmSetting, arm_cells
from plasticity_env.agents.studies.dynamic.published.greedy_removal import losses_on, remove_greedily
from plasticity_env.agents.studies.dynamic.published.if_pruning import HeadScorer
from plasticity_env.agents.studies.dynamic.published.published_report import StaticRises, ratio, report
from plasticity_env.agents.studies.dynamic.published.pudding import regressed
from plasticity_env.agents.studies.dynamic.published.removable import Removable
from plasticity_env.agents.studies.dynamic.published.removal_agent import RemovalEnv, trained_remover
from plasticity_env.agents.studies.dynamic.published.trained_masks import masks_by, straight_through, train_masks
from plasticity_env.agents.studies.dynamic.published_arms import GROUPS, PublishedArms, main
from plasticity_env.controllers.routers.nearest_centroid import NearestCentroid, k_means
from plasticity_env.dynamic.prefix import PrefixReader
from plasticity_env.dynamic.text_masks import losses_after, masked_losses
from plasticity_env.model.contexts import evaluating
from plasticity_env.model.flops import flop_table, kv_cache_table
from tests.conftest import build
from tests.plasticity_env.envs.route_tables import made_table


def llama(mlp_blocks: int = 1) -> PlasticModel:
    return PlasticModel(build("llama").double(), mlp_blocks=mlp_blocks)


# -- what goes ---------------------------------------------------------------------------------------------------------


def test_as_many_parts_go_as_come_nearest_to_the_budget() -> None:
    model = llama()
    table = flop_table(model, 12)
    dense, scores = (
        table.total(torch.ones(model.shape, dtype=torch.bool)),
        torch.randn(5, 64, generator=torch.Generator().manual_seed(0)),
    )
    for kind in ("heads", "blocks"):
        removable = Removable.of(model, kind, table)
        mine = scores[:, : len(removable)]
        for target in (0.95 * dense, 0.8 * dense):
            gone = removable.lowest(mine, target)
            masks = removable.without(gone)
            for row, mask in zip(range(5), masks, strict=True):
                order = mine[row].argsort()
                paths = [
                    table.total(removable.without(torch.isin(torch.arange(len(removable)), order[:count])))
                    for count in range(len(removable) + 1)
                ]
                assert abs(table.total(mask) - target) == min(abs(cost - target) for cost in paths)
            assert bool((mine[row][gone[row]][:, None] < mine[row][~gone[row]]).all())  # the lowest ones
            assert torch.equal(removable.gates((~gone).double()).bool(), masks)
    assert len(Removable.of(model, "heads", table)) == model.shape[0] * model.heads
    assert len(Removable.of(model, "blocks", table)) == 2 * model.shape[0]
    with pytest.raises(InputError, match="heads"):
        Removable.of(model, "layers", table)


# -- greedy removal: PuDDing's sets, RAP ---------------------------------------------------------------------------------


def test_each_removal_is_the_best_of_those_left_and_all_that_were_measured_are_billed(ids: torch.Tensor) -> None:
    model = llama()
    table = flop_table(model, 12)
    removable = Removable.of(model, "blocks", table)
    path = remove_greedily(removable, losses_on(model, ids[:, None]), 0.0, count=len(ids))
    mask = torch.ones(model.shape, dtype=torch.bool)
    spent = 0.0
    for step in range(1, 3):
        tried = [mask & ~part for part in removable.members if bool((mask & part).any())]
        losses = torch.cat([masked_losses(model, ids[1:2], each[None]) for each in tried])
        mask, spent = tried[int(losses.argmin())], spent + sum(table.total(each) for each in tried)
        assert torch.equal(path.masks[step, 1], mask)
        assert float(path.spent[step, 1]) == pytest.approx(spent)
    assert torch.equal(path.nearest(table.total(mask))[0][1], mask)


def test_under_a_budget_of_kv_cache_an_mlp_saves_nothing() -> None:
    model = llama()
    table = kv_cache_table(model)
    dense = table.total(torch.ones(model.shape, dtype=torch.bool))
    removable = Removable.of(model, "blocks", table)
    attention_first = remove_greedily(
        removable, lambda masks: masks[..., : model.heads].sum((2, 3)).double(), dense / 2
    )
    masks, _ = attention_first.nearest(dense / 2)
    assert table.total(masks[0]) == dense / 2
    assert bool(masks[..., model.heads :].all())


def test_puddings_router_learns_which_set_serves_which_text() -> None:
    table = made_table(texts=16, noise=0.0)
    router = regressed(table, 0.6, None, seed=0)
    played = router.play(table, np.arange(len(table)))
    best = np.array([2, 4, 6])[table.kind]  # the set of the text's own kind
    assert (played.structures == best).mean() > 0.95
    assert np.array_equal(
        regressed(table, 0.6, None, seed=0).play(table, np.arange(9)).structures, played.structures[:9]
    )


# -- Probe Pruning -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_probe_of_all_states_scores_heads_by_what_they_read(architecture: str, ids: torch.Tensor) -> None:
    model = PlasticModel(build(architecture).double())
    history = [torch.full((block.output_weight().shape[0],), 0.3) for block in model.blocks]
    gone = probe_pruning.lost_by_layer(model, 0.3)
    assert sum(gone) == round(0.3 * model.shape[0] * model.heads)
    losses, masks = probe_pruning.probed(model, ids, history, gone, 1.0, 4)
    assert torch.equal((~masks).sum(2), torch.tensor(gone).expand(len(ids), -1))
    # the first layer's input is what it is in the dense model: there a probe of all states is the dense pass itself
    assert torch.equal(masks[:, 0], probe_pruning.masks_of_prefix(model, ids, history, gone)[:, 0])
    assert torch.allclose(losses, masked_losses(model, ids, masks, first=4).to(losses), rtol=1e-6)
    few, _ = probe_pruning.probed(model, ids, history, gone, 0.3, 4, batch_size=2)
    again, _ = probe_pruning.probed(model, ids, history, gone, 0.3, 4, batch_size=1)
    assert torch.allclose(few, again, rtol=1e-6)  # each text has a probe of its own
    with torch.no_grad(), evaluating(model.model):
        none, _ = probe_pruning.probed(model, ids, history, [0] * model.shape[0], 0.3, 4)
        assert torch.allclose(none, losses_after(model, ids, 4), rtol=1e-9)  # a probe leaves no trace


def test_a_history_follows_the_channels_that_ran(ids: torch.Tensor) -> None:
    model = PlasticModel(build("llama").double())
    start = [torch.full((block.output_weight().shape[0],), 0.3) for block in model.blocks]
    gone, history = probe_pruning.lost_by_layer(model, 0.3), [past.clone() for past in start]
    _, masks = probe_pruning.probed(model, ids[:1], history, gone, 0.5, 1, 1, follow=0.9)
    ran = []
    hook = model.blocks[0].output.register_forward_pre_hook(
        lambda module, args: ran.append(args[0].float().square().mean(1)[0])
    )
    model.model(input_ids=ids[:1])
    hook.remove()
    kept = masks[0, 0, : model.heads].repeat_interleave(model.blocks[0].unit_width)
    assert torch.equal(history[0][~kept], start[0][~kept])
    assert torch.allclose(
        history[0][kept], 0.27 + 0.1 * ran[0][kept], rtol=1e-5
    )  # the first layer reads what the dense one does


def test_history_and_probe_are_fused_by_their_sizes() -> None:
    history, probe = torch.tensor([1.0, 0.0, 4.0]), torch.tensor([[1.0, 2.0, 0.0]])
    assert torch.allclose(probe_pruning.fused(history, probe), torch.tensor([[1.0, 2.0, 4.0]]))
    assert probe_pruning.probe_tokens(256, 0.05) == 13
    assert probe_pruning.probe_tokens(10, 0.05) == 2
    scores = torch.tensor([[3.0, 1.0, 2.0], [0.5, 0.5, 0.1]])
    assert probe_pruning.kept_heads(scores, 1).tolist() == [[True, False, True], [True, True, False]]


# -- RAP's agent ---------------------------------------------------------------------------------------------------------


def removals(shares: tuple[float, ...]) -> tuple[RemovalEnv, Removable]:
    """Texts of two sorts: one is spoilt by attention layers that go, the other by MLPs."""
    model = llama()
    removable = Removable.of(model, "blocks", flop_table(model, 12))
    whole = removable.table.total(torch.ones(model.shape, dtype=torch.bool))
    sorts = np.array([0, 1] * 4)

    def loss_of(text: int, mask: torch.Tensor) -> float:
        columns = mask[:, : model.heads] if sorts[text] == 0 else mask[:, model.heads :]
        return 3.0 + float((~columns).float().mean())

    features = np.stack([sorts, 1 - sorts], 1) + np.random.default_rng(0).normal(0, 0.1, (8, 2))
    return RemovalEnv(removable, [share * whole for share in shares], features, loss_of), removable


def test_removals_end_as_near_to_the_budget_as_they_come_and_pay_the_rise_of_the_loss() -> None:
    env, removable = removals((0.8, 0.95))
    check_env(env)
    table, dense = removable.table, env._whole
    for seed in range(6):
        env.reset(seed=seed)
        over, costs = False, [dense]
        while not over:
            (left,) = env.action_masks().nonzero()
            gone = env._gone.copy()
            gone[left[0]] = True
            costs.append(table.total(removable.without(torch.from_numpy(gone))))
            _, reward, over, _, _ = env.step(left[0])
        final = table.total(removable.without(torch.from_numpy(env._gone)))
        assert abs(final - env._budget) == min(abs(cost - env._budget) for cost in costs[-2:])
        assert reward == pytest.approx(3.0 - env._loss_of(env._text, removable.without(torch.from_numpy(env._gone))))
        assert costs[-2] > env._budget >= costs[-1]


def test_the_agent_learns_which_parts_a_text_can_spare() -> None:
    env, _ = removals((0.8,))
    agent = trained_remover(env, 4096, seed=0)
    rewards = []
    for text in range(8):
        mask = env.mask_of(agent, env._features[text], env._budgets[0])
        rewards.append(3.0 - env._loss_of(text, mask))
    assert np.mean(rewards) > -0.1  # the wrong parts cost 0.5 or more, parts by chance half of that


# -- trained masks: IG-Pruning, IFPruning ----------------------------------------------------------------------------------


def test_straight_through_gates_are_masks_whose_gradients_are_those_of_sigmoids() -> None:
    model = llama()
    removable = Removable.of(model, "heads", flop_table(model, 12))
    scores = torch.randn(3, len(removable), dtype=torch.float64, requires_grad=True)
    target = 0.9 * removable.table.total(torch.ones(model.shape, dtype=torch.bool))
    gates = straight_through(removable, scores, target)
    assert torch.allclose(gates, removable.without(removable.lowest(scores, target)).double(), atol=1e-12)
    gates.sum().backward()
    soft = scores.detach().sigmoid()
    assert torch.allclose(scores.grad, soft * (1 - soft))


def test_masks_learn_which_head_a_kind_of_text_needs(ids: torch.Tensor) -> None:
    model = llama(0)
    removable = Removable.of(model, "heads", flop_table(model, 12))
    one_gone = removable.table.total(removable.without(torch.arange(len(removable)) == 0))
    every = removable.without(torch.eye(len(removable), dtype=torch.bool))
    rises = torch.stack(
        [masked_losses(model, ids, mask.expand(len(ids), -1, -1), dense_tokens=2, first=2) for mask in every]
    )
    kinds = torch.eye(len(ids))

    def trained() -> torch.Tensor:
        scores = nn.Linear(len(ids), len(removable), bias=False)
        nn.init.zeros_(scores.weight)
        options = {"steps": 25, "batch_size": 3, "rate": 0.2, "prefix_tokens": 2}
        losses = train_masks(model, scores, kinds, ids, removable, one_gone, **options)
        assert len(losses) == 25
        return masks_by(scores, kinds, removable, one_gone)

    masks = trained()
    assert torch.equal(masks, trained())
    chosen = masked_losses(model, ids, masks, dense_tokens=2, first=2)
    assert torch.equal((~masks).flatten(1).sum(1), torch.ones(len(ids), dtype=torch.long))
    assert bool((chosen < rises.mean(0)).all())  # better than a head at random, for every text


def test_a_scorer_of_heads_reads_the_prefix() -> None:
    pooled = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    scorer, again = HeadScorer(pooled, 5, seed=1), HeadScorer(pooled, 5, seed=1)
    assert torch.equal(scorer(pooled), torch.zeros(6, 5))  # no head is preferred before training
    assert torch.equal(scorer.hidden.weight, again.hidden.weight)
    assert scorer.flops == 2 * (8 * 64 + 64 * 5)


def test_clusters_are_those_that_lie_apart(ids: torch.Tensor) -> None:
    random = torch.Generator().manual_seed(0)
    kinds = torch.arange(3).repeat_interleave(5)
    pooled = 10 * torch.eye(3, 8)[kinds] + torch.randn(15, 8, generator=random)
    centroids = k_means(pooled, 3, seed=0)
    groups = NearestCentroid(centroids, (4, 5, 6)).nearest(pooled)
    assert len({(int(kind), int(group)) for kind, group in zip(kinds, groups, strict=True)}) == 3
    assert torch.equal(k_means(pooled, 3, seed=0), centroids)
    model = llama(0)
    view = PrefixReader(model).read(ids)
    router = NearestCentroid(view.pooled[[2, 0]], (7, 8))
    assert router.pick(view)[[2, 0]].tolist() == [7, 8]
    with pytest.raises(InputError, match="3 texts are too few for 4 clusters"):
        k_means(view.pooled, 4)
    with pytest.raises(InputError, match="give one structure for each"):
        NearestCentroid(centroids, (1,))


# -- the study -------------------------------------------------------------------------------------------------------------


def test_the_report_sets_each_arm_beside_the_static_structure_at_its_flops() -> None:
    place = ("m", ("a",), ArmSetting(), 0)
    static = [
        ArmCell(*place, "static", share, "static", [rise, 3 * rise], [1 - share] * 2, 0.0)
        for share, rise in ((0.4, 0.4), (0.2, 0.1))
    ]
    arm = ArmCell(*place, "x", 0.3, "an arm", [0.1, 0.2], [0.6, 0.8], 0.0)
    dear = ArmCell(*place, "x", 0.3, "a dear arm", [0.1, 0.2], [1.6, 1.8], 0.0)
    curve = StaticRises(static)
    assert np.allclose(curve.at(0.7), [0.25, 0.75])  # between 0.6 and 0.8
    assert np.allclose(curve.at(0.9), [0.05, 0.15])  # between 0.8 and the dense model
    assert curve.at(0.5) is None
    said = report([*static, arm, dear])
    assert "| an arm | 0.1500 | 0.5000 | 0.30 [0.27, 0.40] | 0.7000 |" in said
    assert "| a dear arm | 0.1500 | - | - | 1.7000 |" in said
    assert "play the study first" in report([])
    assert ratio(np.array([1.0, 1.0]), np.array([-1.0, 0.5])) == "-"
    assert ratio(np.array([1.0, 1.0]), np.array([-1.0, 2.0])) == "2.00"


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(InputError, match="nearest"):
        PublishedArms(groups=("nearest",))
    with pytest.raises(InputError, match="belong together"):
        PublishedArms(wikitext=Path("valid.txt"))
    with pytest.raises(InputError, match="raise blocks"):
        ArmSetting(blocks=4)
    with pytest.raises(InputError, match="shorten the prefix"):
        ArmSetting(max_length=32)


@pytest.mark.slow
def test_the_study_plays_all_arms_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Slow: a bank is fitted, and every arm is played."""
    setting = ArmSetting(
        blocks=4,
        test_texts=2,
        train_texts=6,
        max_length=32,
        prefix_tokens=8,
        greedy_texts=1,
        sets=1,
        clusters=2,
        agent_steps=256,
        mask_steps=2,
        mask_batch=2,
    )
    config = PublishedArms(
        model_name="bard-gpt2-4x4",
        datasets=("shakespeare", "generated:json"),
        output=tmp_path / "cells.jsonl",
        draws=1,
        shares=(0.5,),
        setting=setting,
    )
    main(config)
    first = capsys.readouterr().out
    cells = arm_cells(config.output).read()
    assert {cell.group for cell in cells} == set(GROUPS)
    assert all(len(cell.rises) == len(cell.kept) == 4 for cell in cells)
    for arm in ("PuDDing, heads", "IG-Pruning, heads", "IFPruning, heads"):
        mine = {cell.arm: np.mean(cell.kept) for cell in cells}
        assert mine[arm] == pytest.approx(
            mine["nearest texts"], abs=0.02
        )  # equal FLOPs but for one head and the router
    main(config)
    again = capsys.readouterr().out
    assert first.endswith(again)  # nothing is played twice
