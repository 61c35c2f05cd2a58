"""Searches: they end where they say, read no test text, pay for what they try, and find what brute force finds."""

from __future__ import annotations

import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch

from plasticity_env import InputError, controllers
from plasticity_env.controllers.planners.planner import MEASURING_PASS, SwapSearch, actions_to, is_planner, make_planner
from plasticity_env.controllers.planners.searches import fisher_rounds
from plasticity_env.controllers.planners.taylor import taylor_importance
from plasticity_env.controllers.planners.trials import Bill, Trials
from tests.conftest import SMALL

RANK = "plasticity/HeadRank-v1"


@pytest.fixture
def make(small_text, narrow_model):
    def build(env_id=RANK, share=0.25, **settings):
        options = {} if env_id != RANK else {"pruned_share": share}
        if "mlp_blocks" in settings:
            options["loaded"] = narrow_model(settings["mlp_blocks"])
        settings = {"text": small_text, "disable_env_checker": True, **SMALL, **options, **settings}
        env = gym.make(env_id, **settings)
        env.reset(seed=0)
        return env

    return build


def reward_loss(env, active):
    state = env.unwrapped.get_state()["episode"]
    return env.unwrapped.workbench.reward_loss(state.request(active))


@pytest.mark.parametrize("name", ["greedy:2", "swap_search:1"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"mode": "compressed"}, {"units": "heads+mlp", "mlp_blocks": 2}, {"repair": "none", "min_heads_per_layer": 3}],
    ids=lambda settings: "-".join(map(str, settings.values())) or "default",
)
def test_a_plan_can_be_played_and_ends_on_its_mask(make, name, settings):
    env = make(**settings)
    before = env.unwrapped.get_state()["episode"]
    active = make_planner(name, seed=1).plan(env)
    assert env.unwrapped.get_state()["episode"] is before
    actions = actions_to(env, active)
    assert len(actions) == 3
    for action in actions:
        *_, terminated, _, info = env.step(action)
    assert terminated
    assert torch.equal(env.unwrapped.get_state()["episode"].active, active)
    assert info["loss"] == pytest.approx(reward_loss(env, active), abs=1e-6)
    if "units" not in settings:
        assert int((~active).sum()) == 4
    else:  # the share is one of FLOPs: no other unit has room
        cost = env.unwrapped.workbench.flop_table.marginal(torch.ones_like(active))
        room = 0.25 * cost.sum() - cost[~active].sum()
        assert 0 <= room < cost[active].min()


def test_greedy_all_takes_the_cheapest_unit_each_time(make):
    env = make(share=3 / 16, repair="bias")
    active = torch.ones(4, 4, dtype=torch.bool)
    for _ in range(3):
        rises = {}
        for unit in active.flatten().nonzero().flatten().tolist():
            trial = active.clone()
            trial.view(-1)[unit] = False
            rises[unit] = reward_loss(env, trial)
        active.view(-1)[min(rises, key=rises.get)] = False
    planner = make_planner("greedy:all")
    assert torch.equal(planner.plan(env), active)
    assert planner.evaluations == 1 + 16 + 15 + 14


def test_a_long_swap_search_finds_the_best_mask_of_all(make):
    """Slow: brute force over 120 masks, and a long search."""
    env = make(share=2 / 16)
    losses = {}
    for pair in itertools.combinations(range(16), 2):
        active = torch.ones(16, dtype=torch.bool)
        active[list(pair)] = False
        losses[pair] = reward_loss(env, active.view(4, 4))
    found = SwapSearch(100, seed=0).plan(env)
    assert tuple(np.flatnonzero(~found.flatten().numpy())) == min(losses, key=losses.get)


@pytest.mark.parametrize("wanted", ["heads", "blocks"])
def test_a_search_trades_cheap_units_for_dear_ones_and_back(wanted, make, monkeypatch):
    """A block of neurons costs several heads here; what is worth keeping is made up."""
    env = make(units="heads+mlp", mlp_blocks=2, share=0.5)
    trials = Trials(env.unwrapped, None, Bill())
    start = fisher_rounds(trials, 4)
    kept = slice(0, 4) if wanted == "heads" else slice(4, 6)
    monkeypatch.setattr(trials, "loss", lambda active: -float(active[:, kept].sum()))
    monkeypatch.setattr(trials, "knows", lambda active: False)
    found = SwapSearch().climb(trials, start, 100)
    assert found[:, kept].sum() > start[:, kept].sum()
    assert trials.fits(found)


def test_a_search_goes_on_from_a_mask_with_a_single_pruned_unit(make):
    trials = Trials(make(units="heads+mlp", mlp_blocks=2, share=0.1).unwrapped, None, Bill())
    start = torch.ones_like(trials.start)
    start[1, 0] = False
    found = SwapSearch().climb(trials, start, 5)
    assert trials.fits(found)
    assert trials.loss(found) <= trials.loss(start)


def test_a_longer_search_is_never_worse_than_its_start(make):
    env = make(share=0.5)
    start = SwapSearch(1e-3).plan(env)
    assert reward_loss(env, SwapSearch(4).plan(env)) <= reward_loss(env, start)
    rule = controllers.make("fisher")
    fisher = make(share=0.5, horizon=4)  # what the search starts from is fisher in four rounds
    observation, _ = fisher.reset(seed=0)
    for _ in range(4):
        observation, *_ = fisher.step(rule.act(observation))
    assert torch.equal(start, fisher.unwrapped.get_state()["episode"].active)


def test_the_bill_counts_every_forward(make, monkeypatch):
    env = make()
    bench, seen = env.unwrapped.workbench, {"measure": 0, "loss": 0}
    for name, method in (("measure", bench.measure), ("loss", bench.reward_loss)):

        def counted(*args, name=name, method=method):
            seen[name] += 1
            return method(*args)

        monkeypatch.setattr(bench, {"measure": "measure", "loss": "reward_loss"}[name], counted)
    planner = make_planner("swap_search:3")
    planner.plan(env)
    assert planner.evaluations == seen["loss"] + (MEASURING_PASS + 1) * seen["measure"]
    tokens = 4 * 32
    assert planner.bill.backward_tokens == seen["measure"] * tokens
    assert planner.bill.forward_tokens == (2 * seen["measure"] + seen["loss"]) * tokens
    assert seen["measure"] == 5  # four rounds, and the mask that the swaps start from


def test_no_planner_reads_the_test_text(make, monkeypatch):
    env = make()
    text, read = env.unwrapped.workbench.text, []
    blocks = type(text).blocks

    def watched(self, split):
        read.append(split)
        return blocks(self, split)

    monkeypatch.setattr(type(text), "blocks", watched)
    for name in ("greedy:2", "swap_search:2"):
        make_planner(name).plan(env)
    assert set(read) == {"calibration", "reward"}


def test_torch_pruning_prunes_the_heads_that_it_ranks_lowest(make):
    pytest.importorskip("torch_pruning")
    env = make(share=0.5)
    planner = make_planner("torch_pruning")
    active = planner.plan(env)
    assert int((~active).sum()) == 8
    state, bench = env.unwrapped.get_state()["episode"], env.unwrapped.workbench
    bench.install(torch.ones(4, 4, dtype=torch.bool), ())
    importance = taylor_importance(bench.model, bench.blocks("calibration", state.calibration))
    assert float(importance[~active].max()) <= float(importance[active].min())
    assert planner.evaluations == MEASURING_PASS
    assert all(parameter.grad is None for parameter in bench.model.parameters())
    for action in actions_to(env, active):
        env.step(action)
    assert torch.equal(env.unwrapped.get_state()["episode"].active, active)
    with pytest.raises(InputError, match="units='heads'"):
        make_planner("torch_pruning").plan(make(units="heads+mlp", mlp_blocks=2))


def test_heads_takes_the_share_from_the_planner(make):
    env = make("plasticity/Heads-v1")
    with pytest.raises(InputError, match="share"):
        make_planner("greedy").plan(env)
    active = make_planner("greedy:3", share=0.5).plan(env)
    assert int((~active).sum()) == 8
    for action in actions_to(env, active):
        env.step(action)
    assert torch.equal(env.unwrapped.get_state()["episode"].active, active)


def test_the_seed_decides(make):
    env = make(share=0.5)
    plans = [make_planner("swap_search:1", seed=seed).plan(env) for seed in (0, 0, 1, 2)]
    assert torch.equal(plans[0], plans[1])
    assert any(not torch.equal(plans[0], other) for other in plans[2:])


def test_refuses_what_it_cannot_do(make):
    for name in ("greedy:x", "swap_search:-1", "greedy:0", "torch_pruning:3", "nothing", "swap_search:nan"):
        with pytest.raises(InputError):
            make_planner(name)
    assert is_planner("swap_search:50")
    assert not is_planner("fisher")
    with pytest.raises(InputError, match="train_steps"):
        make_planner("greedy").plan(make(train_steps=1, batch_size=2))
    env = make(horizon=1)
    env.step(np.arange(16.0))
    with pytest.raises(InputError, match="running episode"):
        make_planner("greedy").plan(env)
    env = make()
    with pytest.raises(InputError, match="cannot go"):
        actions_to(env, torch.ones(4, 4, dtype=torch.bool))
