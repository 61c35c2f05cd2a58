"""Cells that a real model plays, beside other ways to compute the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from plasticity_env import controllers
from plasticity_env.agents.leaderboard import players
from plasticity_env.agents.leaderboard.board_rules import Rules
from plasticity_env.agents.leaderboard.players import Player, fingerprint, read_player, read_players
from plasticity_env.agents.leaderboard.playing import Table
from plasticity_env.agents.studies.ablations import FirstLook
from plasticity_env.common.arguments import fill
from plasticity_env.common.errors import InputError
from tests.conftest import filled


def test_cell_is_what_the_public_environment_gives(table: Table) -> None:
    cell = table.play(read_player("gradient@2"), 0.4, 1)
    env = gym.make(
        "plasticity/HeadRank-v1",
        **{"model_name": "bard-gpt2-4x4", "horizon": 2, "pruned_share": 0.4, "max_sparsity": 1.0, "max_length": 32},
        **{"calibration_blocks": 3, "reward_blocks": 2},
    ).unwrapped
    text = env.workbench.text
    calibration = np.sort(np.random.default_rng(1).choice(len(text.blocks("calibration")), 3, replace=False))
    reward = np.sort(np.random.default_rng([1, 1]).choice(len(text.blocks("reward")), 2, replace=False))
    drawn = {"calibration": calibration.tolist(), "reward": reward.tolist(), "flop_price": 4.0}
    observation, _ = env.reset(seed=0, options=drawn)
    rule = controllers.make("gradient")
    masks = []
    for _ in range(2):
        observation, _, _, _, info = env.step(rule.act(observation))
        masks.append(env.model.active.int().tolist())
    assert cell.kept == tuple(map(tuple, masks[-1]))
    assert cell.rounds == tuple(tuple("".join(map(str, layer)) for layer in mask) for mask in masks)
    assert np.mean(cell.test_losses) == pytest.approx(env.evaluate("test", 4, spread=True), rel=1e-6)
    everything = torch.ones(env.model.shape, dtype=torch.bool)
    assert np.mean(cell.dense_losses) == pytest.approx(env.evaluate("test", 4, everything, spread=True), rel=1e-6)
    assert cell.flops_kept == pytest.approx(info["flops"] / env.dense_flops)
    assert sum(map(sum, cell.kept)) == 16 - round(0.4 * 16)


def test_sharing_what_was_measured_changes_nothing_but_the_time(table: Table) -> None:
    names = ("fisher@4", "random@2", "swap_search:0.5@2")
    fresh = Table(table.rules)
    first = {name: table.play(read_player(name), 0.5, 0) for name in names}
    other = {name: fresh.play(read_player(name), 0.5, 0) for name in reversed(names)}
    again = {name: table.play(read_player(name), 0.5, 0) for name in names}
    for name in names:
        for cell in (other[name], again[name]):
            assert cell.kept == first[name].kept
            assert (cell.evaluations, cell.forward_tokens) == (first[name].evaluations, first[name].forward_tokens)
            assert cell.test_losses == pytest.approx(first[name].test_losses, rel=1e-6)


def test_every_measured_mask_is_billed_as_three_evaluations(table: Table) -> None:
    one, four = table.play(read_player("fisher@1"), 0.5, 0), table.play(read_player("fisher@4"), 0.5, 0)
    assert (one.evaluations, four.evaluations) == (3, 12)
    assert four.forward_tokens == 4 * (3 + 2) * 32
    assert four.backward_tokens == 4 * 3 * 32
    planner = Player("swap_search", "1", 2).make()
    searched = table.play(Player("swap_search", "1", 2), 0.5, 0, planner)
    assert searched.evaluations == planner.evaluations > 12
    assert len(searched.rounds) == 1


def test_planners_over_levels_are_players(table: Table) -> None:
    for text in ("threshold@1", "dp@1"):
        cell = table.play(read_player(text), 0.5, 0)
        assert cell.player == text
        assert sum(map(sum, cell.kept)) == 8
        assert (cell.evaluations, cell.forward_tokens, cell.backward_tokens) == (3, 3 * 32, 3 * 32)


def test_calibration_draws_differ_and_test_blocks_do_not(table: Table) -> None:
    first, second = table.play(read_player("fisher@1"), 0.5, 0), table.play(read_player("fisher@1"), 0.5, 1)
    assert table.options(0.5, 0)["calibration"] != table.options(0.5, 1)["calibration"]
    assert first.dense_losses == second.dense_losses
    assert np.abs(np.subtract(first.test_losses, second.test_losses)).max() > 1e-3


def test_players_are_read_and_told_apart() -> None:
    assert read_player("fisher").text == "fisher@4"
    assert read_player("constant:keep@2") == Player("constant", "keep", 2)
    assert read_player("some.module:make@1").is_entry_point
    assert [player.text for player in read_players(["fisher", "rules", "fisher@1"])][:3] == [
        *("fisher@4", "magnitude@1", "magnitude@4"),
    ]
    assert len(read_players(["rules"])) == len(set(read_players(["rules", "obs@4"]))) == 42
    player = read_player("ann:untrained")
    network, other = player.make(), player.make()
    assert fingerprint(player, network) == fingerprint(player, network) != fingerprint(player, other)
    for bad, said in (
        ("fisher@²", "fisher@²"),
        ("fisher@0", "round"),
        ("@4", "NAME"),
        ("fishr", "did you mean 'fisher'"),
        ("obs:x", "option"),
    ):
        with pytest.raises(InputError, match=said):
            read_player(bad).make()
    with pytest.raises(InputError, match="no controller at nowhere"):
        read_player("nowhere.at:all").make()
    with pytest.raises(InputError, match="returned TestSuite"):
        read_player("unittest.suite:TestSuite").make()


def test_a_fingerprint_tells_thresholds_code_and_wrapped_network_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mark(text: str) -> str:
        return fingerprint(read_player(text), read_player(text).make())

    before = mark("plasticity_tuned")
    assert (len(before), mark("plasticity"), mark("fisher@1")) == (12, "", "")
    options = {**players.tuned_options(), "aggressiveness": 0.123}
    monkeypatch.setattr(players, "tuned_options", lambda: options)
    assert mark("plasticity_tuned") != before
    guest = read_player("tests.agents.leaderboard.guests:shipped")
    maker = guest.make()
    assert isinstance(maker, FirstLook)
    assert fingerprint(guest, maker) != fingerprint(
        read_player("plasticity_env.agents.studies.ablations:first_look"), maker
    ), "the entry module is code of the player, not only the module of the class"
    first = fingerprint(guest, maker)
    with torch.no_grad():
        next(maker._inner.network.parameters()).add_(1.0)
    assert fingerprint(guest, maker) != first
    assert fingerprint(guest, guest.make()) == first


@pytest.mark.parametrize("code", ["def make(:", "raise ValueError('three')"])
def test_a_module_that_cannot_be_imported_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    package = f"guests{abs(hash(code))}"
    (tmp_path / package).mkdir()
    (tmp_path / package / "broken.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=f"no controller at {package}.broken:make"):
        read_player(f"{package}.broken:make").make()


def test_a_board_tells_configurations_of_one_data_set_apart() -> None:
    rules = filled(Rules, dataset="wikitext", dataset_config="wikitext-2")
    assert rules.board.text == "wikitext/wikitext-2"
    assert filled(Rules, dataset="some/folder/text.txt").board.text == "text.txt"


def test_a_board_of_ordered_neurons_is_another_one_and_plays_on_them(table: Table) -> None:
    ordered = fill(table.rules, {"units": "heads+mlp", "mlp_blocks": 4})  # as it is by default
    units = fill(ordered, {"neuron_order": "stored"})
    assert fill(ordered, {"neuron_order": "kfac"}).board == ordered.board
    assert units.board.title.endswith("heads+mlp")
    assert ordered.board.title.endswith("heads+mlp in kfac order")
    with pytest.raises(InputError, match="use it with units='heads"):  # heads have no order
        fill(table.rules, {"neuron_order": "kfac"})
    cells = [Table(rules).play(read_player("fisher@1"), 0.5, 0) for rules in (units, ordered)]
    assert cells[0].dense_losses == pytest.approx(cells[1].dense_losses, abs=1e-5)
    assert cells[0].kept != cells[1].kept


def test_rules_that_the_text_cannot_give_are_refused(table: Table) -> None:
    with pytest.raises(InputError, match="test_blocks 999999"):
        Table(replace(table.rules, test_blocks=999_999))
