"""Areas, ratios, intervals and ranks, against independent computations on cells with known answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from plasticity_env.agents.leaderboard.board_cells import cell_file
from plasticity_env.agents.leaderboard.report.board_tables import results_of
from plasticity_env.agents.leaderboard.statistics import Results, area_weights, ranks
from plasticity_env.common.errors import InputError
from tests.agents.leaderboard.fake import BOARD, SHARES, cell, cells


def test_area_is_the_integral_of_the_interpolated_curve() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        flops = random.uniform(0.5, 1.0, 6)
        values = random.standard_normal(6)
        low, high = np.sort(random.uniform(flops.min(), flops.max(), 2))
        fine = np.linspace(low, high, 200_001)
        order = flops.argsort()
        wanted = np.trapezoid(np.interp(fine, flops[order], values[order]), fine) / (high - low)
        assert area_weights(flops, low, high) @ values == pytest.approx(wanted, abs=1e-6)


def test_a_player_half_as_bad_has_half_the_area_for_certain() -> None:
    results = Results(cells({"fisher@4": 1.0, "mine@4": 0.5, "random@1": 3.0}))
    assert results.best_rule() == "fisher@4"
    found = results.area_ratio("mine@4", results.rules)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5)), "pairing cancels what a text is like"
    assert results.area_ratio("fisher@4", results.rules).value == 1.0
    assert results.rank("mine@4").value == 1


def test_bootstrap_spread_is_the_standard_error_of_the_mean_over_blocks() -> None:
    one = cells({"fisher@1": 1.0}, seeds=1, shares=(0.1, 0.5), noise=1.0)
    results = Results(one, replicates=4000)
    weights = area_weights(results.flops[0, :, 0], *results.interval)
    per_block = weights @ results.deltas[0, :, 0]  # (B,) the area is linear: each block has its own
    wanted = per_block.std() / np.sqrt(len(per_block))
    assert results.areas[0, 0] == pytest.approx(per_block.mean())
    assert results.areas[1:, 0].std() == pytest.approx(wanted, rel=0.05)
    found = results.area("fisher@1")
    assert found.high - found.low == pytest.approx(2 * 1.96 * wanted, rel=0.1)


def test_a_replicate_weighs_blocks_alike_for_all_players_shares_and_seeds() -> None:
    results = Results(cells({"fisher@1": 1.0, "obs@4": 1.3}), replicates=3)
    counts = results.weights[2] * BOARD.test_blocks
    assert counts.sum() == pytest.approx(BOARD.test_blocks)
    blocks = np.repeat(np.arange(BOARD.test_blocks), counts.round().astype(int))
    for player in range(2):
        for share in range(len(SHARES)):
            wanted = results.deltas[player, share][:, blocks].mean(1)
            assert results.means[2, player, share] == pytest.approx(wanted)


def test_the_best_rule_is_chosen_anew_in_every_replicate() -> None:
    random = np.random.default_rng(1)
    lines = []
    for name in ("fisher@4", "obs@4", "mine@4"):
        for share in SHARES:
            lines.append(cell(name, share + random.standard_normal(BOARD.test_blocks), share, 0))
    results = Results(lines)
    least = results.areas[:, :2].min(1)
    assert (least < results.areas[:, results.index(str(results.best_rule()))]).any()
    wanted = np.quantile((results.areas[:, 2] / least)[1:], [0.025, 0.975])
    found = results.area_ratio("mine@4", results.rules)
    assert (found.low, found.high) == pytest.approx(tuple(wanted))


def test_own_scores_and_other_rounds_are_no_best_rule() -> None:
    results = Results(cells({"residual_fisher@4": 0.1, "fisher@2": 0.2, "swap_search:10@4": 0.3, "gradient@1": 1.0}))
    assert results.rules == ["gradient@1"]


def test_perplexity_ratio_is_the_geometric_mean_over_seeds() -> None:
    lines = []
    for seed, rise in enumerate((0.1, 0.2, 0.6)):
        lines += [cell("fisher@4", np.full(24, 0.5), 0.3, seed), cell("mine@4", np.full(24, 0.5 - rise), 0.3, seed)]
    results = Results(lines)
    assert results.perplexity_ratio("mine@4", "fisher@4", 0.3).value == pytest.approx(np.exp(-0.3))
    assert results.perplexities("mine@4", 0.3) == pytest.approx(np.exp([3 + 0.4, 3 + 0.3, 3 - 0.1]))
    assert not results.has_areas
    assert results.best_rule() is None


def test_only_flops_that_all_cover_count() -> None:
    lines = cells({"fisher@4": 1.0}, seeds=1)
    lines += [replace(one, player="mine@4", flops_kept=one.flops_kept + 0.02) for one in lines]
    results = Results(lines)
    assert results.interval == pytest.approx((0.82, 0.96))
    rise = results.rise_at(0.9)[0]
    deltas = results.means[0, :, :, 0]  # the same losses at other FLOPs
    assert rise[0] == pytest.approx(np.interp(0.9, [0.80, 0.88, 0.96], deltas[0][::-1]))
    assert rise[1] == pytest.approx(np.interp(0.9, [0.82, 0.90, 0.98], deltas[1][::-1]))
    assert results.rise_ratio("mine@4", ["fisher@4"], 0.9).value == pytest.approx(rise[1] / rise[0])
    with pytest.raises(InputError, match="not all players cover"):
        results.rise_at(0.81)


def test_players_that_lack_cells_are_named_and_a_new_version_replaces_the_old() -> None:
    lines = cells({"fisher@4": 1.0, "mine@4": 0.5})
    lines.remove(next(one for one in lines if one.player == "mine@4"))
    results = Results(lines)
    assert (results.players, results.missing) == (["fisher@4"], ["mine@4"])
    new = [replace(one, fingerprint="b") for one in cells({"mine@4": 0.25})]
    assert Results(lines + new).area_ratio("mine@4", ["fisher@4"]).value == pytest.approx(0.25)
    with pytest.raises(InputError, match="play"):
        Results([])


def test_cells_of_another_model_or_text_under_the_same_names_are_refused() -> None:
    lines = cells({"fisher@4": 1.0, "mine@4": 0.5})
    near = [replace(one, dense_losses=tuple(round(1.0001 * x, 5) for x in one.dense_losses)) for one in lines]
    assert Results([*lines[:5], *near[5:]]).players == ["fisher@4", "mine@4"]
    losses = lines[-1].dense_losses
    other = replace(lines[-1], dense_losses=(*losses[:-1], 1.02 * losses[-1]))
    with pytest.raises(InputError, match=r"dense losses of mine@4 \(0.5, seed 2\) are not those of fisher@4"):
        Results([*lines[:-1], other])


def test_cells_in_the_documentation_are_of_one_model_each() -> None:
    file = Path(__file__).parents[3] / "docs" / "leaderboard" / "cells.jsonl"
    boards, failed = results_of(cell_file(file).read())
    assert boards
    assert not failed


def test_equal_ones_share_a_rank() -> None:
    assert ranks(np.array([[2.0, 1.0, 1.0, 3.0]])).tolist() == [[3, 1, 1, 4]]
