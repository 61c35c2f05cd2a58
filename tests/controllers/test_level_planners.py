"""Planners over levels, on toy models: against all choices tried out, by their bills, and played on every environment."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from plasticity_env import InputError, make_env
from plasticity_env.controllers.planners import Evolution, actions_to, make_planner
from plasticity_env.controllers.planners.bill import Bill
from plasticity_env.controllers.planners.level_planners import swapped
from plasticity_env.controllers.planners.trials import Trials
from tests.plasticity_env.envs.toy_models import BLOCKS, TOKENS, toy_model, toy_text

LEVELS, RANK, HEADS = "plasticity/Levels-v0", "plasticity/HeadRank-v1", "plasticity/Heads-v1"
NAMES = ("threshold", "dp", "evolution:1", "ziplm", "ziplm:2")
LIGHT = {"obs_signal": False, "residual_signal": False}


def make(env_id=LEVELS, architecture="llama", share=0.5, blocks=BLOCKS, **settings):
    units = {"units": "heads+mlp", "mlp_blocks": blocks, "neuron_order": "stored"} if blocks else {}
    values = {"max_length": TOKENS, "calibration_blocks": 4, "reward_blocks": 2, "horizon": 1, **LIGHT, **units}
    target = {} if env_id == HEADS else {"pruned_share": share}
    env = make_env(env_id, loaded=toy_model(architecture, blocks), text=toy_text(), **{**values, **target, **settings})
    env.reset(seed=0)
    return env


def choices(trials):
    """All choices of levels that cost the most that fits."""
    table, room = trials.levels()
    every = [np.array(levels) for levels in itertools.product(*[range(most + 1) for most in room.highest])]
    every = [
        levels for levels in every if table.cost(levels) <= room.due and table.mask(levels)[:, : trials.heads].any()
    ]
    most = max(map(table.cost, every))
    return table, [levels for levels in every if table.cost(levels) == most]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("env_id", "settings"),
    [
        (LEVELS, {}),
        (LEVELS, {"action": "levels", "horizon": 2}),
        (LEVELS, {"mode": "compressed", "architecture": "gpt2", "blocks": 0}),
        (RANK, {}),
        (RANK, {"blocks": 0, "horizon": 2}),
        (HEADS, {}),
    ],
    ids=str,
)
def test_a_plan_is_played_and_ends_on_its_mask(env_id, settings, name):
    env = make(env_id, **settings)
    before = env.get_state()["episode"]
    planner = make_planner(name, share=None if env_id != HEADS else 0.5)
    active = planner.plan(env)
    assert env.get_state()["episode"] is before
    for action in actions_to(env, active):
        *_, terminated, _, _ = env.step(action)
    assert terminated
    assert torch.equal(env.get_state()["episode"].active, active)
    trials = Trials(make(env_id, **settings), planner.share, Bill())
    table, fitting = choices(trials)
    assert tuple(table.levels(active)) in {tuple(levels) for levels in fitting}


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_the_knapsack_is_the_cheapest_of_all_choices(architecture, share):
    env = make(architecture=architecture, share=share)
    table, fitting = choices(Trials(env, None, Bill()))
    planner = make_planner("dp")
    found = table.levels(planner.plan(env))
    assert table.price(found) == pytest.approx(min(map(table.price, fitting)), rel=1e-12)
    assert table.price(found) <= table.price(table.levels(make_planner("threshold").plan(env))) + 1e-12
    assert planner.evaluations == 3
    assert (planner.bill.forward_tokens, planner.bill.backward_tokens) == (4 * TOKENS, 4 * TOKENS)


def test_ziplm_is_the_cheapest_for_the_layers_outputs_and_its_search_never_ends_worse():
    env = make(architecture="gpt2", share=0.5)
    plain = make_planner("ziplm")
    active = plain.plan(env)
    trials = Trials(env, None, Bill())
    table, _ = trials.levels(of_outputs=True)
    _, fitting = choices(trials)
    assert table.price(table.levels(active)) == pytest.approx(min(map(table.price, fitting)), rel=1e-12)
    assert (plain.evaluations, plain.bill.forward_tokens, plain.bill.backward_tokens) == (1, 4 * TOKENS, 0)
    searched = make_planner("ziplm:12", seed=1)
    found = searched.plan(env)
    assert trials.loss(found) <= trials.loss(active)
    assert trials.loss(found) < trials.loss(active) or torch.equal(found, active)
    assert 2 <= searched.evaluations <= 1 + 13  # a mask that was tried before costs nothing
    assert torch.equal(make_planner("ziplm:12", seed=1).plan(env), found)


@pytest.mark.parametrize("settings", [{}, {"blocks": 0}, {"mode": "compressed"}], ids=str)
def test_osscar_gives_every_site_its_share_and_no_swap_would_gain(settings):
    env = make(RANK, "gpt2", share=0.5, **settings)
    planner = make_planner("osscar")
    active = planner.plan(env)
    trials = Trials(env, None, Bill())
    trials.levels(of_outputs=True)
    assert trials.fits(active)
    assert planner.evaluations == 1
    errors = trials.output_errors()
    for site in trials.sites:
        gone = ~active[site.layer, site.columns]
        assert int(gone.sum()) == 1  # half of two
        assert float(errors.of(site, gone[None])) <= float(errors.of(site, ~gone[None]))
    for action in actions_to(env, active):
        *_, terminated, _, _ = env.step(action)
    assert terminated
    assert torch.equal(env.get_state()["episode"].active, active)


def test_an_evolution_finds_the_choice_nearest_to_the_dense_model():
    env = make(architecture="gpt2", share=0.5)
    trials = Trials(env, None, Bill())
    table, fitting = choices(trials)
    fitness = trials.divergence(6, 0)
    apart = {tuple(levels): fitness.of(table.mask(levels), 6) for levels in fitting}
    assert len(apart) > 3
    found = table.levels(Evolution(10, tokens=(48,), survivors=()).plan(env))
    assert tuple(found) == min(apart, key=apart.__getitem__)


def test_a_divergence_is_that_of_the_models_answers():
    env = make(architecture="gpt2")
    trials = Trials(env, None, Bill())
    table, _ = trials.levels()
    fitness = trials.divergence(3, 0)
    assert fitness.of(torch.ones(2, 4, dtype=torch.bool), 3) == pytest.approx(0.0, abs=1e-6)
    active = table.mask((1, 1, 0, 2))
    model = env.workbench.model
    with torch.no_grad():
        dense = toy_model("gpt2", BLOCKS).model.model(input_ids=fitness._ids[:2]).logits[:, :-1].log_softmax(-1)
        env.workbench.install(active, env.get_state()["episode"].fitted)
        pruned = model(input_ids=fitness._ids[:2], use_cache=False).logits[:, :-1].log_softmax(-1)
    expected = float((dense.exp() * (dense - pruned)).sum(-1).mean())
    assert fitness.of(active, 2) == pytest.approx(expected, rel=1e-4)


def test_children_are_compared_on_more_and_more_tokens(monkeypatch):
    """Three children on one block, two of them on two, the last with its parent on four; and all of it is billed."""
    env, seen = make(architecture="gpt2", share=0.5), []
    from plasticity_env.controllers.planners.divergence import Divergence

    whole = Divergence.of
    monkeypatch.setattr(
        Divergence, "of", lambda self, active, blocks: seen.append(blocks) or whole(self, active, blocks)
    )
    planner = Evolution(1, tokens=(8, 16, 32), offspring=3, survivors=(2, 1))
    planner.plan(env)
    assert seen == [4, 1, 1, 1, 2, 2, 4]
    read = sum(seen) * TOKENS + 4 * TOKENS  # and the dense model's answers, once
    assert planner.bill.forward_tokens == 4 * TOKENS + read
    assert planner.evaluations == 3 + sum(-(-blocks // 2) for blocks in seen)  # of two reward blocks each
    short = Evolution(1, tokens=(8, 1000, 2000), offspring=3, survivors=(2, 1))
    seen.clear()
    short.plan(env)
    assert seen == [6, 1, 1, 1, 6, 6]  # the train split has six blocks


def test_an_evolution_reads_no_other_text_than_it_says(monkeypatch):
    env, read = make(), set()
    whole = type(env.workbench.text).blocks
    monkeypatch.setattr(type(env.workbench.text), "blocks", lambda self, split: read.add(split) or whole(self, split))
    make_planner("evolution:1").plan(env)
    assert read == {"calibration", "train"}


def test_the_seed_decides():
    env = make(architecture="gpt2", share=0.5)
    table, room = Trials(env, None, Bill()).levels()
    parent = table.levels(make_planner("dp").plan(env))
    drawn = [
        [tuple(swapped(parent, table, room, np.random.default_rng(seed))) for _ in range(3)] for seed in (0, 0, 1, 2)
    ]
    assert drawn[0] == drawn[1]
    assert len(set(map(tuple, drawn))) > 1
    plans = [make_planner("evolution:2", seed=3).plan(env) for _ in range(2)]
    assert torch.equal(*plans)


def test_every_child_costs_exactly_as_much():
    env = make(share=0.5)
    table, room = Trials(env, None, Bill()).levels()
    parent, random = table.levels(make_planner("dp").plan(env)), np.random.default_rng(0)
    children = {tuple(swapped(parent, table, room, random)) for _ in range(40)}
    assert len(children) > 2
    assert {table.cost(child) for child in children} == {table.cost(parent)}


def test_refuses_what_it_cannot_do():
    for name in ("threshold:2", "dp:1", "evolution:x", "evolution:0", "evolution:-1"):
        with pytest.raises(InputError):
            make_planner(name)
    with pytest.raises(InputError, match="tokens that rise"):
        Evolution(1, tokens=(16, 8), survivors=(1,))
    env = make(HEADS)
    with pytest.raises(InputError, match="no target share"):
        make_planner("dp").plan(env)
    levels = make(share=0.5)
    out = torch.ones(2, 4, dtype=torch.bool)
    out[0, levels.table.sites[0].order[1]] = False
    with pytest.raises(InputError, match="cannot go to a mask"):
        actions_to(levels, out)
