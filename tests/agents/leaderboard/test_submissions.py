"""A submission counts when its actions, replayed by the board, earn what they claim."""

from __future__ import annotations

import json
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest

from plasticity_env import controllers
from plasticity_env.agents.leaderboard.board_cells import Cell
from plasticity_env.agents.leaderboard.players import read_player
from plasticity_env.agents.leaderboard.playing import Table
from plasticity_env.agents.leaderboard.submissions import play_submission, read_submission, replay
from plasticity_env.common.digests import MANIFEST
from plasticity_env.common.errors import InputError
from plasticity_env.envs.replay import EpisodeRecord

GUESTS = "tests.agents.leaderboard.guests"
PLAYER = read_player(f"{GUESTS}:Honest@2")


@pytest.fixture
def record(table: Table) -> EpisodeRecord:
    env, maker = table.env(2), controllers.make("fisher")
    observation, _ = env.reset(seed=0, options=table.options(0.5, 0))
    for _ in range(2):
        observation, *_ = env.step(maker.act(observation))
    return env.episode_record()


def counted(table: Table, record: EpisodeRecord) -> Cell:
    return replay(table, PLAYER, "f", 0.5, 0, record, 1.0)


def test_a_replayed_episode_is_the_cell_that_the_same_rule_plays(table: Table, record: EpisodeRecord) -> None:
    cell, own = counted(Table(table.rules), record), table.play(read_player("fisher@2"), 0.5, 0)
    assert cell.validated
    assert (cell.kept, cell.rounds, cell.evaluations) == (own.kept, own.rounds, own.evaluations)
    assert cell.test_losses == pytest.approx(own.test_losses, rel=1e-6)


def test_a_mask_that_was_measured_before_is_billed_once(table: Table) -> None:
    few = 1.2 / prod(table.workbench.model.shape)  # one head in all: the first of four rounds prunes none
    own, maker = table.play(read_player("fisher@4"), few, 0), controllers.make("fisher")
    assert own.rounds[0] == tuple("1" * len(layer) for layer in own.rounds[0])
    env = table.env(4)
    observation, _ = env.reset(seed=0, options=table.options(few, 0))
    for _ in range(4):
        observation, *_ = env.step(maker.act(observation))
    cell = replay(table, replace(PLAYER, rounds=4), "f", few, 0, env.episode_record(), 1.0)
    assert cell.evaluations == own.evaluations


def test_what_was_not_played_so_is_refused(table: Table, record: EpisodeRecord) -> None:
    better = replace(record, rewards=(record.rewards[0], record.rewards[1] + 0.1))
    with pytest.raises(InputError, match="step 1 of the record claims"):
        counted(table, better)
    easier = replace(record, options={**record.options, "pruned_share": 0.1})
    with pytest.raises(InputError, match="other options"):
        counted(table, easier)
    richer = replace(record, kwargs={**record.kwargs, "calibration_blocks": 9})
    with pytest.raises(InputError, match="other kwargs"):
        counted(table, richer)
    longer = replace(record, actions=record.actions + record.actions[:1], rewards=(*record.rewards, 0.0))
    with pytest.raises(InputError, match="3 actions, not 2"):
        counted(table, longer)


def test_only_saved_controllers_and_entry_points_are_submissions(tmp_path: Path) -> None:
    controllers.make("ann").save(tmp_path / "net")
    for given in (tmp_path / "net", tmp_path / "net" / "controller.json", tmp_path / "net" / "controller.safetensors"):
        assert read_submission(f"{given}@2").name == str(tmp_path / "net")
    assert read_submission("json.decoder:JSONDecoder@2") == read_player(
        "json.decoder:JSONDecoder@2"
    )  # whatever can be imported, in a moment here
    for given, said in (
        ("json.decoder:noises", "has no attribute 'noises'"),
        ("no_such.module:it", "No module"),
    ):
        with pytest.raises(InputError, match=f"submission '{given}@4' cannot be imported .*{said}"):
            read_submission(given)
    with pytest.raises(InputError, match="neither"):
        read_submission("fisher@4")
    config = tmp_path / "net" / "controller.json"
    data = json.loads(config.read_text())
    data["network"]["head_features"][0] = "taylor"
    config.write_text(json.dumps(data))
    (tmp_path / "net" / MANIFEST).unlink()
    with pytest.raises(InputError, match="taylor"):
        read_submission(str(tmp_path / "net"))


@pytest.mark.slow
def test_its_code_runs_in_a_process_of_its_own(table: Table) -> None:
    """Slow: processes of their own import torch and play."""
    (cell,) = play_submission(PLAYER, table.rules, (0.5,), 1, [])
    own = table.play(read_player("fisher@2"), 0.5, 0)
    assert cell.validated
    assert cell.kept == own.kept
    assert cell.fingerprint
    with pytest.raises(InputError, match="unknown column of the observation 'taylor'"):
        list(play_submission(read_player(f"{GUESTS}:Foreign@1"), table.rules, (0.5,), 1, []))
