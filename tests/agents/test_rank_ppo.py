"""PPO on HeadRank: the policy against brute force, group advantages against their definition, and whole trainings."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from plasticity_env import InputError, controllers
from plasticity_env.agents.ppo import price_shares as prices
from plasticity_env.agents.ppo.plackett_luce import Picks, pick_entropies, pick_log_probs, picks_of, sample_scores
from plasticity_env.agents.ppo.ppo_config import PPOConfig
from plasticity_env.agents.ppo.price_shares import PRICES, SHARES, choose_shares, price_shares
from plasticity_env.agents.ppo.rank_config import RankConfig
from plasticity_env.agents.ppo.rank_ppo import RankPPO, group_advantages
from plasticity_env.agents.ppo.scenario_env import RelativeRise
from plasticity_env.agents.ppo.scenarios import Played, Scenario, Stage, Turn
from plasticity_env.controllers import HeadNetwork, NetworkConfig
from plasticity_env.envs.settings import Settings
from tests.conftest import SMALL
from tests.plasticity_env.envs.test_head_rank import make

SETTINGS = {**SMALL, "obs_signal": False, "residual_signal": False, "max_length": 16, "max_sparsity": 1.0}
SETTINGS |= {"calibration_blocks": 2, "reward_blocks": 2}
RANKS = RankConfig(rounds="1,2", scenarios=2, group_size=3, pruned_share="0.2,0.6")


def stage(models=("bard-gpt2-4x4",), ranks=RANKS, modes=("adaptive",), **changes):
    return Stage(models, Settings(**{**SETTINGS, **changes}), ranks, modes)


def picks(order, count):
    order = torch.tensor(order)
    picked = torch.arange(order.shape[1]).expand(order.shape) < count
    return Picks(order, torch.ones_like(picked), picked)


def test_probabilities_of_all_rankings_add_up_and_equal_the_product_of_softmaxes():
    logits = torch.randn(1, 5, dtype=torch.float64)
    total = 0.0
    for order in itertools.permutations(range(5), 3):
        rest = [unit for unit in range(5) if unit not in order]
        found = float(pick_log_probs(logits, picks([[*order, *rest]], 3)).sum().exp())
        left, expected = list(range(5)), 1.0
        for unit in order:
            expected *= float(logits[0, left].softmax(0)[left.index(unit)])
            left.remove(unit)
        assert found == pytest.approx(expected, rel=1e-9)
        total += found
    assert total == pytest.approx(1.0, abs=1e-9)


def test_entropies_are_those_of_the_softmax_over_what_is_left():
    logits = 5 * torch.randn(2, 6, dtype=torch.float64)
    chosen = picks([[3, 1, 5, 0, 2, 4], [0, 1, 2, 3, 4, 5]], 4)
    chosen.candidates[1, 5] = False
    found = pick_entropies(logits, chosen)
    for row, place in itertools.product(range(2), range(4)):
        left = [int(unit) for unit in chosen.order[row, place:] if chosen.candidates[row, unit]]
        expected = torch.distributions.Categorical(logits=logits[row, left]).entropy()
        assert float(found[row, place]) == pytest.approx(float(expected), abs=1e-9)
    assert (found[:, 4:] == 0).all()


def test_rankings_are_drawn_with_their_probabilities():
    logits = torch.tensor([[1.0, -0.5, 0.3]])
    generator = torch.Generator().manual_seed(0)
    drawn = sample_scores(logits.expand(20_000, -1), generator).argsort(1)
    for order in itertools.permutations(range(3)):
        share = float((drawn == np.array(order)).all(1).mean())
        assert share == pytest.approx(float(pick_log_probs(logits, picks([order], 3)).sum().exp()), abs=0.015)


def test_picks_are_what_the_environment_pruned():
    for mode in ("adaptive", "compressed"):
        played = stage(modes=(mode,)).play(
            Scenario("bard-gpt2-4x4", mode, 3, 0.5, 4.0, (0, 1), (0, 1)),
            lambda seen: np.random.default_rng(len(seen["heads"])).standard_normal((4, 16)),
            4,
        )
        gone = torch.zeros(4, 16, dtype=torch.bool)
        for turn in played.turns:
            found = picks_of(turn.scores, turn.before, turn.after, mode == "adaptive", whole_units=True)
            now = torch.zeros_like(gone).scatter(1, found.order, found.picked)
            gone = now if mode == "adaptive" else gone | now
            assert torch.equal(gone, ~turn.after)
            first = int(found.picked[0].sum())
            assert found.picked[:, :first].all()  # they are the first in the order


def test_where_costs_differ_the_first_that_found_no_room_was_decided_too():
    before = torch.ones(1, 4, dtype=torch.bool)
    after = torch.tensor([[True, False, True, True]])
    scores = np.array([[0.3, -1.0, 0.1, 0.9]])
    assert picks_of(scores, before, after, True, True).picked.sum() == 1
    found = picks_of(scores, before, after, True, False)
    assert found.picked.tolist() == [[True, True, False, False]]
    assert found.order[0, 1] == 2


def test_the_baseline_is_the_groups_mean_and_the_past_is_taken_out():
    def played(losses):
        turns = [Turn({}, np.zeros((3, 1)), torch.ones(3, 1), torch.ones(3, 1), np.array(loss)) for loss in losses]
        return Played(Scenario("", "adaptive", len(losses), 0.5, 4.0, (), ()), 1.0, turns, np.ones(3))

    one = played([[2.0, 3.0, 4.0]])
    np.testing.assert_allclose(group_advantages([one], [2.0]), [0.5, 0.0, -0.5])
    # what was there before the last decision explains the outcome wholly: that decision gets no credit, the first all
    two = played([[2.0, 3.0, 4.0], [2.0, 3.0, 4.0]])
    np.testing.assert_allclose(group_advantages([two], [1.0]), [1.0, 0.0, -1.0, 0.0, 0.0, 0.0], atol=1e-12)
    # and nothing of it where it tells nothing
    three = played([[2.0, 2.0, 5.0], [4.0, 3.0, 3.5]])
    found = group_advantages([three], [1.0])
    assert found.sum() == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(found[:3], [-0.5, 0.5, 0.0])


def test_members_of_a_group_play_one_scenario_and_a_rule_plays_it_as_the_single_environment_does():
    where = stage()
    scenario = where.draw(np.random.default_rng(3), 0, 1, 0).but(rounds=2)
    played = where.play(scenario, lambda seen: np.tile(np.arange(16.0), (3, 1)), 3)
    assert np.ptp(played.rises) < 1e-5
    env = make(**{**SETTINGS, "horizon": 2})
    observation, info = env.reset(seed=0, options=scenario.options())
    dense, rule = info["loss"], controllers.make("fisher")
    for _ in range(2):
        observation, _, _, _, info = env.step(rule.act(observation))
    assert float(where.play_rule(scenario, "fisher").rises[0]) == pytest.approx(info["loss"] - dense, abs=1e-4)
    assert where.unit(scenario) == pytest.approx(max(0.02, info["loss"] - dense), abs=1e-4)
    assert where.reference_steps == 2
    where.unit(scenario)
    assert where.reference_steps == 2  # known


@pytest.mark.parametrize("context", ["linear", "deep_sets", "attention"])
def test_one_training_runs_over_models_modes_and_rounds(context):
    where = stage(("bard-gpt2-4x4", "bard-llama-4x8"), modes=("adaptive", "compressed"))
    seen = []
    config = PPOConfig(total_timesteps=8, num_minibatches=2, update_epochs=1, context=context, width=8)
    ppo = RankPPO(where, config, callback=lambda step, metrics: seen.append((step, metrics)))
    before = {key: value.clone() for key, value in ppo.network.state_dict().items()}
    ppo.train()
    assert seen[-1][0] >= 8
    assert len({(s.model, s.mode) for update in range(2) for s in _drawn(ppo, update)}) == 4
    assert any(not torch.equal(before[key], value) for key, value in ppo.network.state_dict().items())
    assert all(math.isfinite(value) for _, metrics in seen for value in metrics.values())


def test_every_model_and_mode_meets_small_and_large_shares():
    where = stage(("bard-gpt2-4x4", "bard-llama-4x8"), modes=("adaptive", "compressed"))
    ppo = RankPPO(where, PPOConfig(context="linear"))
    met = {}
    for update in range(24):
        for scenario in _drawn(ppo, update):
            met.setdefault((scenario.model, scenario.mode), []).append(scenario.share)
    assert len(met) == 4
    assert all(min(shares) < 0.3 and max(shares) > 0.5 for shares in met.values())  # of 0.2 to 0.6


def _drawn(ppo, update):
    ppo.update = update
    return ppo.scenarios()


def test_resuming_is_exact(tmp_path):
    """Slow: three trainings."""
    config = PPOConfig(total_timesteps=18, num_minibatches=2, update_epochs=1, context="linear")
    quick = RankConfig(**{**RANKS.__dict__, "rounds": "1", "scenarios": 1})

    def training(folder, stop=False):
        def cut(step, metrics):
            if stop and ppo.update == 2:
                raise KeyboardInterrupt

        ppo = RankPPO(stage(ranks=quick), config, folder=folder, callback=cut)
        resumed = ppo.resume()
        try:
            ppo.train()
        except KeyboardInterrupt:
            assert stop
        return resumed, ppo

    _, whole = training(tmp_path / "whole")
    training(tmp_path / "cut", stop=True)
    resumed, again = training(tmp_path / "cut")
    assert resumed
    assert again.global_step == whole.global_step
    assert all(torch.equal(a, b) for a, b in zip(whole.network.parameters(), again.network.parameters(), strict=True))
    with pytest.raises(InputError, match="trained with group_size=3, not 4"):
        RankPPO(
            stage(ranks=RankConfig(**{**quick.__dict__, "group_size": 4})), config, folder=tmp_path / "cut"
        ).resume()


def test_learning_finds_the_heads_that_matter():
    """What is paid here is known: pruning a head costs 1 where its Fisher score is high. The linear network finds it."""

    class Toy(Stage):
        def play(self, scenario, choose, members):
            random = np.random.default_rng(scenario.calibration[0])
            features = random.standard_normal((16, len(columns))).astype(np.float32)
            values = {
                "heads": np.tile(features, (members, 1, 1)),
                "globals": np.zeros((members, width), dtype=np.float32),
                "action_mask": np.ones((members, 16), dtype=np.int8),
            }
            seen = Observation("head_rank", values)
            scores = choose(seen)
            gone = torch.zeros(members, 16, dtype=torch.bool)
            gone.scatter_(1, torch.from_numpy(np.asarray(scores)).argsort(dim=1)[:, :8], True)
            loss = (gone.numpy() * features[:, columns.index("fisher_z")]).sum(1)
            turn = Turn(seen, scores, torch.ones_like(gone), ~gone, loss)
            return Played(scenario, 0.0, [turn], np.ones(members))

        def unit(self, scenario):
            return 1.0

    from plasticity_env.envs.observation import GLOBAL_FEATURES, HEAD_FEATURES, Observation

    columns, width = list(HEAD_FEATURES), len(GLOBAL_FEATURES)
    ranks = RankConfig(rounds="1", scenarios=4, group_size=8)
    config = PPOConfig(total_timesteps=2000, learning_rate=0.05, context="linear", ent_coef=0.0, seed=1)
    returns = []
    ppo = RankPPO(
        Toy(["bard-gpt2-4x4"], Settings(**SETTINGS), ranks),
        config,
        callback=lambda s, m: returns.append(m["episode/rise"]),
    )
    ppo.train()
    best = -8 * math.sqrt(2 / math.pi)  # mean of the lower half of 16 normal numbers, times 8
    assert np.mean(returns[-5:]) < 0.75 * best
    assert abs(np.mean(returns[:2])) < 0.3 * abs(best)


def test_a_warm_start_ranks_as_the_rule_does():
    ranks = RankConfig(**{**RANKS.__dict__, "warm_start": "fisher"})
    config = PPOConfig(total_timesteps=1, context="linear", head_features="fisher_rank,depth")
    ppo = RankPPO(stage(ranks=ranks), config)
    ppo._imitate("fisher", 3)
    assert ppo.controller().info["warm_start"] == "fisher"
    env = make(**{**SETTINGS, "horizon": 1})
    observation, _ = env.reset(seed=7)
    ours, rule = ppo.controller().act(observation), controllers.make("fisher").act(observation)
    assert np.corrcoef(np.argsort(np.argsort(ours)), np.argsort(np.argsort(rule)))[0, 1] > 0.95


def test_dearer_flops_never_leave_a_larger_share(monkeypatch):
    """Slow: nine shares are played in four rounds each; one draw of blocks, where a training takes three."""
    monkeypatch.setattr(prices, "DRAWS", 1)
    controller = RankPPO(stage(), PPOConfig(context="linear")).controller()
    pairs = price_shares(stage(), controller)
    assert tuple(price for price, _ in pairs) == PRICES
    shares = [share for _, share in pairs]
    assert shares == sorted(shares)
    controller.info["price_shares"] = pairs
    env = make(**{**SETTINGS, "horizon": 1})
    assert controller.share_at(PRICES[0]) == pytest.approx(shares[0])
    from tests.agents.test_ppo import make as make_heads

    heads = make_heads(horizon=2)
    for price in (1.0, 16.0):  # without a target of the environment's, it prunes its own
        observation, _ = heads.reset(seed=0, options={"flop_price": price})
        for _ in range(2):
            observation, *_ = heads.step(controller.act(observation))
        assert int((~heads.unwrapped.workbench.model.active).sum()) == round(controller.share_at(price) * 16)
    env.close()


def test_a_share_that_ruins_one_model_is_not_chosen_for_the_sake_of_another():
    shares = np.array([0.0, *SHARES])
    logs = np.tile(np.log(1 - shares / 2), (2, 1))
    robust, brittle = 0.1 * shares, np.where(shares > 0.5, 8.0, 0.1 * shares)
    chosen = [dict(choose_shares(np.stack(rises), logs))[PRICES[4]] for rises in ([robust] * 2, [robust, brittle])]
    assert chosen == [0.9, 0.5]
    falling = np.stack([10 * shares, 10 * shares])  # nothing pays but at the highest prices
    found = [share for _, share in choose_shares(falling, logs)]
    assert found[0] == 0.0
    assert found == sorted(found)


def test_the_single_environment_pays_in_units_of_the_rule():
    env = RelativeRise(make(**{**SETTINGS, "horizon": 2, "pruned_share": 0.5}), "fisher", pool=1)
    rule, returns = controllers.make("fisher"), 0.0
    for _ in range(2):
        observation, _ = env.reset(seed=0)
        over, returns = False, 0.0
        while not over:
            observation, reward, over, _, _ = env.step(rule.act(observation))
            returns += reward
    assert returns == pytest.approx(-1.0, abs=1e-5)
    assert env.reference_steps == 2


def test_scenarios_have_one_of_the_asked_numbers_of_calibration_blocks():
    ranks = RankConfig(calibration_sizes="1,3", rounds="1")
    sizes = {len(one.calibration) for one in stage(ranks=ranks).draw_all(np.random.default_rng(0), 0, 20)}
    assert sizes == {1, 3}
    assert {len(one.calibration) for one in stage().draw_all(np.random.default_rng(0), 0, 5)} == {2}
    with pytest.raises(InputError, match=r"calibration_sizes '1,99999' asks for more than the \d+ calibration blocks"):
        stage(ranks=RankConfig(calibration_sizes="1,99999"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pruned_share": "0.1,2"}, "pruned_share must lie above 0"),
        ({"pruned_share": "0.1,0.2,0.3"}, "a number or a range"),
        ({"rounds": "0"}, "rounds must be whole numbers of at least 1"),
        ({"rounds": "1.5"}, "rounds must be whole numbers"),
        ({"calibration_sizes": "4,0"}, "calibration_sizes must be whole numbers of at least 1"),
        ({"group_size": 1}, "group_size must be a whole number of at least 2"),
        ({"warm_start": "fishr"}, "fisher"),
        ({"warm_scale": 0.0}, "warm_scale must lie in"),
    ],
)
def test_what_cannot_be_played_is_refused(changes, said):
    with pytest.raises(InputError, match=said):
        RankConfig(**changes)


@pytest.mark.parametrize(
    ("ranks", "said"),
    [
        ({"reference": "obs"}, "does not measure 'obs'"),
        ({"warm_start": "residual_fisher"}, "does not measure 'residual_fisher'"),
    ],
)
def test_a_rule_that_needs_what_is_not_measured_is_refused_at_once(ranks, said):
    with pytest.raises(InputError, match=said):
        stage(ranks=RankConfig(**{**RANKS.__dict__, **ranks}))


def test_a_linear_network_trains_from_another():
    network = HeadNetwork(NetworkConfig(("fisher_z",), context="linear"))
    ppo = RankPPO(stage(), PPOConfig(total_timesteps=1), network)
    assert ppo.train().network.config.head_features == ("fisher_z",)
