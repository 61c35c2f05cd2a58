"""Tracking keeps every number, survives a resume, and never asks anybody anything."""

from __future__ import annotations

import json
import math
import os
import shlex
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plasticity_env.common.digests import read_rows
from plasticity_env.common.errors import InputError
from plasticity_env.common.metrics_logger import MetricsLogger
from plasticity_env.common.tracking import EpisodeStep, Tracker, TrackingOptions, new_run_folder
from plasticity_env.common.wandb_run import resolve_mode, use_writable_home

PLAIN = TrackingOptions(tensorboard=False)


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user with an empty home and no W&B settings."""
    home = tmp_path / "home"
    home.mkdir()
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(home))
    return home


def rows_of(folder: Path) -> list[dict[str, Any]]:
    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is not JSON")

    for line in (folder / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)
    return read_rows(folder / "metrics.jsonl")


def test_rows_are_on_disk_at_once_and_nan_is_null(tmp_path: Path) -> None:
    config = {"lr": 3e-4, "folder": tmp_path, "bound": math.inf}
    with Tracker(tmp_path / "run", config, PLAIN) as tracker:
        tracker.log({"episode/ppl": np.float32(2.5), "loss/value": math.nan, "loss/policy": -math.inf}, step=64)
        assert rows_of(tmp_path / "run") == [
            {"global_step": 64, "episode/ppl": 2.5, "loss/value": None, "loss/policy": None}
        ]
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored == {"lr": 3e-4, "folder": str(tmp_path), "bound": None}


def test_table_is_one_object_a_row_and_checks_lengths(tmp_path: Path) -> None:
    with Tracker(tmp_path, {}, PLAIN) as tracker:
        tracker.table("pruned", ["layer", "head", "score"], [[0, 3, 0.5], [1, 2, math.nan]])
        with pytest.raises(InputError, match="2 entries, not 3"):
            tracker.table("pruned", ["layer", "head", "score"], [[0, 3]])
        with pytest.raises(InputError, match="metrics"):
            tracker.table("metrics", ["a"], [[1]])
    rows = [json.loads(line) for line in (tmp_path / "pruned.jsonl").read_text().splitlines()]
    assert rows == [{"layer": 0, "head": 3, "score": 0.5}, {"layer": 1, "head": 2, "score": None}]


def test_rewind_forgets_later_rows_only(tmp_path: Path) -> None:
    with Tracker(tmp_path, {}, PLAIN) as tracker:
        for step in (10, 20, 30):
            tracker.log({"x": step}, step)
    with Tracker(tmp_path, {}, PLAIN, resume=True) as tracker:
        tracker.rewind(20)
        tracker.log({"x": 31.0}, 30)
    assert [(row["global_step"], row["x"]) for row in rows_of(tmp_path)] == [(10, 10.0), (20, 20.0), (30, 31.0)]


def test_a_changed_digit_is_refused(tmp_path: Path) -> None:
    with MetricsLogger(tmp_path) as logger:
        logger.log({"loss": 3.25}, 5)
        assert logger.curves() == {"loss": ([5], [3.25])}
        logger.rows_path.write_text(logger.rows_path.read_text().replace("3.25", "3.15"))
        with pytest.raises(InputError, match=r"line 1 of .*metrics.jsonl' is no row of a run \(it is damaged"):
            logger.curves()
    with pytest.raises(InputError, match=r"holds a line that is not a metrics row \(it is damaged"):
        MetricsLogger(tmp_path, resume=True)


def test_heads_and_episodes_are_rows_that_a_rewind_and_a_resume_treat_alike(tmp_path: Path) -> None:
    start, after = EpisodeStep([[1, 1]], "the start"), EpisodeStep([[np.float32(1), 0.5]], "pruned", {"ppl": math.inf})
    with Tracker(tmp_path, {}, PLAIN) as tracker:
        for step in (10, 20):
            tracker.heads([[1.0, 0.5], [0, 1]], step, "toy", 1)
            tracker.episode([start, after], step, "toy", "price 1")
        with pytest.raises(InputError, match="cannot be called 'heads': that file holds the run's heads"):
            tracker.table("heads", ["x"], [])
    with (tmp_path / "episodes.jsonl").open("a") as stream:
        stream.write('{"global_step": 30')
    with Tracker(tmp_path, {}, PLAIN, resume=True) as tracker:
        tracker.rewind(10)
        tracker.heads([[1]], 11)
    heads, episodes = (read_rows(tmp_path / f"{name}.jsonl") for name in ("heads", "episodes"))
    assert heads == [
        {"global_step": 10, "model": "toy", "heads": 1, "active": [[1, 0.5], [0, 1]]},
        {"global_step": 11, "model": "", "heads": 1, "active": [[1]]},
    ]
    assert [(row["global_step"], row["title"], row["heads"]) for row in episodes] == [(10, "price 1", 2)]
    assert episodes[0]["steps"] == [
        {"active": [[1, 1]], "note": "the start", "numbers": {}},
        {"active": [[1, 0.5]], "note": "pruned", "numbers": {"ppl": None}},
    ]


def test_resume_drops_only_a_row_that_a_crash_cut(tmp_path: Path) -> None:
    with Tracker(tmp_path, {}, PLAIN) as tracker:
        tracker.log({"x": 1.0}, 1)
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"global_step": 2, "x"')
    with Tracker(tmp_path, {}, PLAIN, resume=True) as tracker:
        tracker.log({"x": 2.0}, 2)
    assert [row["x"] for row in rows_of(tmp_path)] == [1.0, 2.0]


def test_a_run_is_not_overwritten_without_resume(tmp_path: Path) -> None:
    Tracker(tmp_path, {}, PLAIN).close()  # cut before anything was logged
    with Tracker(tmp_path, {}, PLAIN) as tracker:
        tracker.table("rows", ["x"], [[1.0]])
    with pytest.raises(InputError, match="holds a run already: resume it"):
        Tracker(tmp_path, {}, PLAIN)


def test_tensorboard_reads_the_scalars_and_a_rewind_purges(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = TrackingOptions()
    with Tracker(tmp_path, {}, options) as tracker:
        for step in (10, 20, 30):
            tracker.log({"loss/value": step / 10}, step)
    with Tracker(tmp_path, {}, options, resume=True) as tracker:
        tracker.rewind(20)
        tracker.log({"loss/value": 7.0}, 40)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss/value")] == [(10, 1.0), (20, 2.0), (40, 7.0)]


def test_tensorboard_shows_heads_by_layer_and_the_arguments_beside_the_last_figures(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    config = {
        "seed": 3,
        "settings": {"repair": "none", "lr": 0.5, "shares": [0.1, 0.2]},
        "resume": False,
        "folder": None,
    }
    with Tracker(tmp_path, config, TrackingOptions()) as tracker:
        tracker.log({"episode/ppl": 30.0}, 1)
        tracker.heads([[1, 0, 1], [1, 1, 1]], 1, "toy", 2)
        tracker.log({"episode/ppl": 29.0}, 2)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    layers = [events.Scalars(f"heads/toy/layer_{layer}")[0].value for layer in (0, 1)]
    assert layers == [1.0, 2.0]  # of the heads; the third column is a block
    told = events.PluginTagToContent("hparams")
    start = HParamsPluginData.FromString(told["_hparams_/session_start_info"]).session_start_info.hparams
    assert {name: start[name].WhichOneof("kind") for name in start} == {
        "seed": "number_value",
        "settings/repair": "string_value",
        "settings/lr": "number_value",
        "settings/shares": "string_value",
        "resume": "number_value",
        "folder": "string_value",
    }
    experiment = HParamsPluginData.FromString(told["_hparams_/experiment"]).experiment
    assert "episode/ppl" in {metric.name.tag for metric in experiment.metric_infos}


@pytest.mark.parametrize(
    ("flag", "variable", "key", "mode"),
    [
        (None, None, None, "offline"),
        (None, None, "variable", "online"),
        (None, None, "netrc", "online"),
        (None, None, "other host", "offline"),
        (None, None, "own server", "online"),
        (None, "disabled", "netrc", "disabled"),
        (None, "offline", "netrc", "offline"),
        (None, "dryrun", None, "offline"),
        (None, "online", None, "offline"),
        ("offline", "online", "netrc", "offline"),
        ("online", "disabled", "netrc", "online"),
        ("online", None, None, "offline"),
        ("disabled", "online", "netrc", "disabled"),
    ],
)
def test_mode_is_flag_then_environment_then_key(
    flag: str | None,
    variable: str | None,
    key: str | None,
    mode: str,
    nobody: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if variable:
        monkeypatch.setenv("WANDB_MODE", variable)
    if key == "variable":
        monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    elif key:
        host = "api.wandb.ai" if key == "netrc" else "example.org"
        if key == "own server":
            monkeypatch.setenv("WANDB_BASE_URL", f"https://{host}")
        (nobody / ".netrc").write_text(f"machine {host} login user password {'x' * 40}\n")
    assert resolve_mode(flag) == mode
    asked_in_vain = (flag or variable) == "online" and mode == "offline"
    assert ("no API key" in capsys.readouterr().err) == asked_in_vain


def test_an_unknown_mode_is_named() -> None:
    with pytest.raises(InputError, match=r"'ofline' \(did you mean 'offline'\?\)"):
        resolve_mode("ofline")


def records_of(file: Path) -> list[Any]:
    """The records of a W&B run file, which frames protobufs as LevelDB's log does (header of 7 bytes)."""
    from wandb.proto.wandb_internal_pb2 import Record

    raw, place, records, whole = file.read_bytes(), 7, [], b""
    while place + 7 <= len(raw):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
        length, kind = struct.unpack("<HB", raw[place + 4 : place + 7])
        whole += raw[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            records.append(Record.FromString(whole))
            whole = b""
    return records


def history_of(file: Path) -> list[dict[str, Any]]:
    rows = [record.history.item for record in records_of(file) if record.WhichOneof("record_type") == "history"]
    return [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row} for row in rows]


def test_wandb_offline_resumes_under_one_id_and_names_every_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a run"
    options = TrackingOptions(track=True, wandb_mode="offline", tensorboard=False)
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "controller.json").write_text("{}")
    with Tracker(folder, {"seed": 1}, options) as tracker:
        tracker.log({"episode/ppl": 40.0}, 64)
        tracker.log({"episode/ppl": math.nan}, 128)
    identity = json.loads((folder / "wandb_run.json").read_text())["id"]
    capsys.readouterr()
    time.sleep(1.0)  # W&B names its folders by the second
    with Tracker(folder, {"seed": 1}, options, resume=True) as tracker:
        tracker.rewind(64)
        tracker.log({"episode/ppl": 39.0}, 128)
        tracker.table("pruned", ["layer", "note"], [[0, "first"], [1, None]])
        tracker.artifact("policy", tmp_path / "policy")
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 1
    assert said.err == ""

    words = shlex.split(said.out)
    folders = [Path(word) for word in words[4:]]
    assert words[:4] == ["wandb", "sync", "--id", identity]
    assert sorted(folders) == sorted((folder / "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    sync = [sys.executable, "-m", "wandb", "sync"]
    options: Any = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL, "check": True}
    if "--dry-run" in subprocess.run([*sync, "--help"], **options).stdout:  # older ones have no such option
        dry = subprocess.run([*sync, "--dry-run", *words[2:]], **options)
        assert "Would sync 2 run(s)" in dry.stdout + dry.stderr

    first, second = (history_of(file / f"run-{identity}.wandb") for file in folders)
    ppl = [(row["global_step"], row["episode/ppl"]) for row in first + second if "episode/ppl" in row]
    assert [step for step, _ in ppl] == [64, 128, 128]
    assert np.array_equal([value for _, value in ppl], [40.0, math.nan, 39.0], equal_nan=True)
    assert [row["_step"] for row in first + second] == [0, 1, 2, 3], "rows of two offline folders may not collide"
    kinds = [record.WhichOneof("record_type") for record in records_of(folders[1] / f"run-{identity}.wandb")]
    assert "metric" in kinds
    assert any("artifact" in str(record) for record in records_of(folders[1] / f"run-{identity}.wandb"))


@pytest.mark.slow
def test_wandb_gets_heads_a_group_and_artifacts_of_one_naming_scheme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slow: W&B starts. In the offline file: the job's type, the group of the sweep whose agent started it, names and aliases."""
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    folder, page = tmp_path / "run 1", tmp_path / "page.html"
    page.write_text("<p>")
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "controller.json").write_text("{}")
    options = TrackingOptions(track=True, wandb_mode="offline", tensorboard=False)
    with Tracker(folder, {}, options, program="train") as tracker:
        tracker.heads([[1, 0], [1, 1]], 64, "toy")
        tracker.artifact("controller", tmp_path / "policy")
        tracker.artifact("dashboard", page)
        with pytest.raises(InputError, match="there is nothing at"):
            tracker.artifact("model", tmp_path / "nowhere")
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    while "exit" not in [record.WhichOneof("record_type") for record in records_of(file)]:
        time.sleep(0.1)  # W&B's own process writes on for a moment
    rows = [row for row in history_of(file) if "heads/toy/layer_0" in row]
    told = [(row["global_step"], row["heads/toy/layer_0"], row["heads/toy/layer_1"]) for row in rows]
    assert told == [(64, 1.0, 2.0)]
    records = records_of(file)
    run = next(record.run for record in records if record.WhichOneof("record_type") == "run")
    assert (run.run_group, run.job_type, run.display_name) == ("sweep-abc", "train", "run 1")
    artifacts = [record.artifact for record in records if record.WhichOneof("record_type") == "artifact"]
    stored = {
        one.name: (one.type, sorted(one.aliases), [entry.path for entry in one.manifest.contents]) for one in artifacts
    }
    assert stored == {
        "train-controller": ("controller", ["latest", "run-1"], ["controller.json"]),
        "train-dashboard": ("dashboard", ["latest", "run-1"], ["page.html"]),
    }


def test_run_folders_are_new_and_a_chosen_name_is_not_reused(tmp_path: Path) -> None:
    folders = {new_run_folder("train", tmp_path) for _ in range(5)}
    assert len(folders) == 5
    assert all(folder.is_dir() and folder.name.startswith("train_") for folder in folders)
    assert new_run_folder("train", tmp_path, "mine") == tmp_path / "mine"
    with pytest.raises(InputError, match="'mine' exists"):
        new_run_folder("train", tmp_path, "mine")


def test_what_wandb_cannot_take_is_one_line_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("Unable to write staging files")

    (tmp_path / "controller").mkdir()
    (tmp_path / "controller" / "weights").write_text("")
    with Tracker(tmp_path / "run", {}, TrackingOptions(track=True, wandb_mode="offline", tensorboard=False)) as tracker:
        monkeypatch.setattr(wandb.Artifact, "add_file", refuse)
        tracker.artifact("controller", tmp_path / "controller")
        monkeypatch.setattr(type(tracker._wandb._run), "log", refuse)
        for step in (1, 2):
            tracker.log({"x": 1.0}, step)
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(",")[0] for line in said] == [
        "W&B does not hold the artifact 'controller'",
        "W&B lacks the rows from here on",
    ]
    assert all("Unable to write staging files" in line for line in said)
    assert len(rows_of(tmp_path / "run")) == 2


def test_folders_in_a_home_that_cannot_be_written_lie_with_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR")
    (tmp_path / "own").mkdir()
    for variable in (*names, "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    use_writable_home(tmp_path / "run")
    assert not any(name in os.environ for name in names)
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "own"))
    monkeypatch.setenv("HOME", "/proc/nobody")
    use_writable_home(tmp_path / "run")
    found = [os.environ[name] for name in names]
    assert found == [str(tmp_path / "run" / "data"), str(tmp_path / "own"), str(tmp_path / "run" / "config")]
    for name in names:
        monkeypatch.setenv(name, os.environ[name])  # so that it is undone


def test_a_loggers_folder_may_begin_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    with MetricsLogger("~/run") as logger:
        logger.log({"loss": 1.0}, step=1)
    assert (tmp_path / "home" / "run" / "metrics.jsonl").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
