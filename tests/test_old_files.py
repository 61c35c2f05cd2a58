"""Files that commit 4ee0dcd wrote (``old_files/``) load today, and do what they did then."""

from __future__ import annotations

import base64
import json
import os
import pickle
import runpy
import shutil
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
import transformers as tf

from plasticity_env import InputError, RunRecord, controllers, load_model, load_plastic, mean_loss
from plasticity_env.agents.cycle_cli.plasticity_run import run_plasticity
from plasticity_env.agents.cycle_cli.run_arguments import RunArguments
from plasticity_env.agents.leaderboard import players
from plasticity_env.agents.leaderboard.board_cells import cell_file
from plasticity_env.agents.leaderboard.board_run import current_cells, fingerprints, missing_jobs
from plasticity_env.agents.leaderboard.leaderboard_config import LeaderboardConfig
from plasticity_env.agents.leaderboard.players import fingerprint, read_player, read_players
from plasticity_env.agents.leaderboard.report.labels import kind, label
from plasticity_env.agents.leaderboard.workers import table_of
from plasticity_env.agents.online.online_arguments import OnlineRunConfig
from plasticity_env.agents.online.online_run import run_online
from plasticity_env.agents.sb3.sb3_archive import load_archive

ROOT = Path(__file__).parents[1]
OLD = Path(__file__).parent / "old_files"
RECORDED = json.loads((OLD / "recorded.json").read_text(encoding="utf-8"))
SMALL = {"model_name": "model", "dataset": "words.txt", "max_length": 16}
BLOCKS = {"calibration_blocks": 4, "reward_blocks": 4}
TEXT = {"calibration": [0, 1, 2, 3], "reward": [0, 1, 2, 3]}
LEARN = "--num_steps 4 --num_minibatches 1 --update_epochs 1 --width 4 --keep_bias 0.0 --envs_per_model 2 --horizon 2"
PLACE = (
    "--model_name model --dataset words.txt --max_length 16 --calibration_blocks 4 --reward_blocks 4 --no-tensorboard"
)
RANK = "--env head_rank --context linear --head_features fisher_z,gradient_z,residual_fisher_z"
RUNS = {  # the flags that each was started with
    "train_run": f"{PLACE} {LEARN} --total_timesteps 24",
    "rank_run": f"{PLACE} {LEARN} {RANK} --rounds 2 --scenarios 1 --group_size 2 --total_timesteps 12",
}
IDS = torch.arange(32).view(2, 16) % 18
CELLS = ROOT / "docs" / "leaderboard" / "cells.jsonl"


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, as the current folder: the files name the model and its text by paths from here."""
    folder = tmp_path / "old"
    shutil.copytree(OLD, folder)
    monkeypatch.chdir(folder)
    return folder


def first_edits(controller: controllers.Controller) -> list[int]:
    env = gym.make("plasticity/Heads-v0", **SMALL, **BLOCKS, flop_price=4.0, horizon=2)
    observation, _ = env.reset(seed=0, options=TEXT)
    return np.asarray(controller.act(observation)).tolist()


@pytest.mark.parametrize("name", ["controller", "sb3_controller"])
def test_controllers_decide_as_they_did(old: Path, name: str) -> None:
    assert first_edits(controllers.load(name)) == RECORDED[name]


def test_an_archive_of_stable_baselines3_is_read_though_it_names_modules_of_then(old: Path) -> None:
    with zipfile.ZipFile("sb3.zip") as archive:
        assert b"agents.sb3" in base64.b64decode(json.loads(archive.read("data"))["policy_kwargs"][":serialized:"])
    assert first_edits(load_archive("sb3.zip")) == RECORDED["sb3.zip"]


class _Attack:
    def __reduce__(self):
        return os.mkdir, ("broken_in",)


def test_an_archive_runs_no_code(old: Path) -> None:
    with zipfile.ZipFile("sb3.zip") as whole, zipfile.ZipFile("bad.zip", "w") as bad:
        data = json.loads(whole.read("data"))
        arguments = {"features_extractor_kwargs": {"config": _Attack()}}
        data["policy_kwargs"][":serialized:"] = base64.b64encode(pickle.dumps(arguments)).decode()
        bad.writestr("data", json.dumps(data))
        bad.writestr("policy.pth", whole.read("policy.pth"))
    with pytest.raises(InputError, match=r"bad.zip' holds no controller \(it names posix.mkdir\)"):
        load_archive("bad.zip")
    assert not Path("broken_in").exists()
    for name in ("words.txt", "nowhere.zip"):
        with pytest.raises(InputError, match=f"{name}' holds no controller"):
            load_archive(name)


@pytest.mark.parametrize("name", ["plastic", "plastic.pth"])
def test_a_pruned_model_keeps_mask_repair_and_the_way_back(old: Path, name: str) -> None:
    model, recorded = load_plastic(name).model, RECORDED["plastic"]
    assert model.active.int().tolist() == recorded["mask"]
    assert mean_loss(model, IDS) == pytest.approx(recorded["loss"], rel=1e-5)
    model.set_active(torch.ones_like(model.active))
    assert mean_loss(model, IDS) == pytest.approx(recorded["revived_loss"], rel=1e-5)
    assert mean_loss(model, IDS) == pytest.approx(mean_loss(load_model("model").model, IDS), rel=1e-6)


def test_a_compact_export_loads(old: Path) -> None:
    model = tf.AutoModelForCausalLM.from_pretrained("compact")
    assert float(model(IDS, labels=IDS).loss.detach()) == pytest.approx(RECORDED["compact"]["loss"], rel=1e-5)


@pytest.mark.parametrize("name", sorted(RUNS))
def test_a_training_that_was_cut_goes_on_as_if_it_had_not_been(old: Path, name: str, monkeypatch) -> None:
    assert not (old / name / "controller").exists()
    flags = [*RUNS[name].split(), "--wandb_mode", "disabled", "--output_dir", name, "--resume"]
    monkeypatch.setattr(sys, "argv", ["train_controller.py", *flags])
    runpy.run_path(str(ROOT / "scripts" / "train_controller.py"), run_name="__main__")
    network = controllers.load(f"{name}/controller").network
    norms = {key: value.double().norm().item() for key, value in network.state_dict().items()}
    assert norms == pytest.approx(RECORDED[name], rel=1e-3, abs=1e-5)


def test_a_plasticity_cycle_that_was_cut_goes_on_as_if_it_had_not_been(old: Path) -> None:
    assert RunRecord.read("cycle_run").config["status"] == "failed"
    record = run_plasticity(RunArguments(resume=Path("cycle_run")), lambda sentence: None)
    _ended_as_recorded(record, "cycle_run")
    assert (old / "cycle_run" / "dashboards" / "dashboard.html").is_file()


@pytest.mark.slow
def test_a_network_that_learns_in_the_cycle_goes_on_as_if_it_had_not_been_cut(old: Path) -> None:
    """Slow: the rest of an online run, with pages and pictures."""
    record, decider = run_online(OnlineRunConfig(resume=Path("online_run")))
    _ended_as_recorded(record, "online_run")
    assert decider.learner.lessons > 1


def _ended_as_recorded(record: RunRecord, name: str) -> None:
    assert record.config["status"] == "finished"
    for arm in ("final", "control"):
        recorded = RECORDED[name][arm]
        found = {key: record.summary[arm][key] for key in recorded}
        assert found == pytest.approx(recorded, rel=1e-3)


def test_cells_are_those_that_the_same_players_leave_today(old: Path) -> None:
    config = LeaderboardConfig(
        models="model",
        players="fisher@2,controllers.ablations:first_look@2",
        shares="0.25,0.5",
        seeds=1,
        test_blocks=4,
        settings=replace(
            LeaderboardConfig().settings, dataset="words.txt", text_split="leading", max_length=16, **BLOCKS
        ),
        output=Path("cells.jsonl"),
    )
    played = [*read_players(config.players.split(",")), read_player(f"{ROOT}/docs/lab/controllers/tokens@2")]
    table = table_of(config.rules("model"))
    cells = {(cell.player, cell.share): cell for cell in cell_file(config.output).read()}
    assert len(cells) == 6
    for player in played:
        name = player.text.removeprefix(f"{ROOT}/")
        for share in (0.25, 0.5):
            cell, now = cells[name, share], table.play(player, share, 0)
            assert cell.board == now.board
            assert cell.fingerprint == now.fingerprint
            assert cell.rounds == now.rounds
            assert cell.test_losses == pytest.approx(now.test_losses, rel=1e-4)
    assert not missing_jobs(config, fingerprints(played[:2]))


@pytest.mark.parametrize(
    "asked",
    [
        "controllers.ablations:noise,controllers.ablations:first_look,controllers.ablations:without_entropy",
        "plasticity_env.agents.studies.ablations:shuffled,ann,fisher@1,residual_stepwise,greedy",
        "docs/lab/controllers/tokens,docs/lab/controllers/crossfit,docs/lab/controllers/in_sample",
    ],
)
def test_no_cell_of_the_documentation_is_played_anew(monkeypatch, asked: str) -> None:
    monkeypatch.chdir(ROOT)
    config = LeaderboardConfig(models="bard-neox-5x6", players=asked, test_blocks=256, output=CELLS)
    prints = fingerprints(read_players(asked.split(",")))
    assert missing_jobs(config, prints) == []
    cells = cell_file(CELLS).read()
    texts = {player.text for player in prints}
    counted = [cell for cell in current_cells(cells, prints) if cell.player in texts]
    assert {cell.fingerprint for cell in counted} == set(prints.values())


def test_cells_under_former_names_are_counted_and_labelled(monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    lines = [json.loads(line)["player"] for line in CELLS.read_text(encoding="utf-8").splitlines()]
    cells = cell_file(CELLS).read()
    assert len(cells) == len(lines) > 5000
    assert sum(cell.player == "docs/lab/controllers/tokens@4" for cell in cells) == lines.count("ann:tokens@4") > 0
    noise = "plasticity_env.agents.studies.ablations:noise@4"
    assert sum(cell.player == noise for cell in cells) == lines.count("controllers.ablations:noise@4") > 0
    assert (label(noise), kind(noise)) == ("studies.ablations:noise@4", "learned")
    assert (label("docs/lab/controllers/tokens@4"), kind("docs/lab/controllers/tokens@4")) == (
        "controllers/tokens@4",
        "learned",
    )
    for player in {cell.player for cell in cells}:
        assert read_player(player).text == player


def test_a_network_that_no_longer_ships_is_played_by_folder() -> None:
    with pytest.raises(
        InputError, match=r"'ann:tokens' no longer ships: give its folder .* docs/lab/controllers/tokens$"
    ):
        read_player("ann:tokens@4").make()
    assert controllers.shipped() == ["ranker", "units"]


def test_a_module_whose_code_changes_is_played_anew_and_one_that_moves_is_not(tmp_path, monkeypatch) -> None:
    player = read_player("plasticity_env.agents.studies.ablations:noise")
    maker = player.make()
    source = Path(players.inspect.getfile(type(maker))).read_text(encoding="utf-8")
    before = fingerprint(player, maker)
    file = tmp_path / "other.py"
    monkeypatch.setattr(players.inspect, "getfile", lambda module: str(file))
    moved = source.replace("from plasticity_env.controllers.ann import", "from elsewhere.ann import")
    file.write_text(moved.replace('"""Ranks once', '"""Decides once'), encoding="utf-8")
    assert file.read_text(encoding="utf-8").count("elsewhere") == 1
    assert fingerprint(player, maker) == before
    file.write_text(source.replace("random.permutation(active), column", "active, column"), encoding="utf-8")
    assert fingerprint(player, maker) != before
