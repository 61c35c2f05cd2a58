"""The two command lines of the plasticity cycle, as a user types them."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from plasticity_env import load_plastic
from plasticity_env.cycle import RunRecord
from tests.scripts.interrupting import hearing_ctrl_c
from tests.scripts.test_scripts import ROOT, run

TEXT = "to be or not to be that is the question whether tis nobler in the mind to suffer "
HEADS = ["--model_name", "bard-gpt2-4x4", "--mlp_blocks", "0"]  # no blocks of neurons, on the smallest model
SMALL = [
    *("--warmup_steps", "2", "--training_steps", "2", "--analysis_steps", "1", "--max_length", "32"),
    *("--reward_blocks", "4", "--test_blocks", "4", "--sample_tokens", "6"),
]


@pytest.fixture
def text(tmp_path):
    """A text of a few hundred blocks: the embedded one takes long to tokenise."""
    words = (TEXT * 400).split()
    order = torch.randperm(len(words), generator=torch.Generator().manual_seed(0)).tolist()
    path = tmp_path / "words.txt"
    path.write_text(" ".join(words[index] for index in order))
    return ["--dataset", str(path)]


@pytest.mark.slow
def test_a_compressed_run_leaves_everything_that_is_looked_at(tmp_path, text):
    """Slow: a whole run of the script in a process of its own, with pages and pictures."""
    done = run(
        "run_neural_plasticity.py",
        *["--quick_test", "--pruning_strategy", "gradient", "--pruning_level", "0.5", "--pruning_mode", "compressed"],
        *["--save_model", "--track", "--output_dir", "run", *HEADS, *SMALL, *text],
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "run"
    record = RunRecord.read(folder)
    assert record.config["status"] == "finished"
    assert record.config["settings"]["cycles"] == 2  # of the quick test
    assert record.config["settings"]["training_steps"] == 2  # of the command line
    assert record.summary["final"]["active_heads"] == 8
    assert record.summary["compact"]["parameters_kept"] < 1
    assert {sample.when for sample in record.samples} == {"baseline", "pruned", "recovered"}
    for name in (
        *("dashboards/dashboard.html", "dashboards/complete_process.png", "models/compact/model.safetensors"),
        *("pruning_events.json", "warmup/stabilisation.json", "metrics.json", "experiment.log"),
    ):
        assert (folder / name).stat().st_size > 0, name
    assert load_plastic(folder / "models" / "final").model.active.sum() == 8
    assert list(folder.glob("tensorboard/events*"))
    assert list(folder.glob("wandb/offline-run-*"))
    assert "control arm" in done.stdout
    assert "removed for real" in done.stdout


@pytest.mark.slow
def test_the_cycle_is_told_stage_by_stage(tmp_path, text):
    """Slow: a whole run of the script in a process of its own."""
    done = run(
        "neural_plasticity_cycle.py",
        *[
            "--model_name",
            "bard-gpt2-4x4",
            "--pruning_strategy",
            "fisher",
            "--growth_strategy",
            "balanced",
            "--cycles",
            "2",
        ],
        *["--initial_pruning", "0.25", "--growth_ratio", "0.5", "--learning_rate", "1e-4", "--output_dir", "run"],
        *["--new_head_lr_multiplier", "5", *SMALL, *text],
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "run"
    for name in ("stages.json", "stages.txt", "cycles.json", "cycles.txt", "active_heads.txt"):
        assert (folder / "metrics" / name).stat().st_size > 0, name
    for name in ("active_heads_by_stage.png", "perplexity_by_phase.png", "improvement_over_cycles.png"):
        assert (folder / "visualizations" / name).stat().st_size > 5_000, name
    assert len(json.loads((folder / "metrics" / "cycles.json").read_text())) == 2
    settings = RunRecord.read(folder).config["settings"]
    assert (settings["pruning_level"], settings["growth_strategy"]) == (0.25, "balanced")
    assert "ppl before" in done.stdout
    assert "o active  . pruned" in done.stdout


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_measured_and_the_run_goes_on(tmp_path, text):
    """Slow: a run in a process of its own is interrupted and resumed."""
    arguments = [
        "--quick_test",
        *HEADS,
        *SMALL,
        *text,
        "--training_steps",
        "400",
        "--cycles",
        "1",
        "--pruning_strategy",
        "random",
    ]
    process = subprocess.Popen(
        hearing_ctrl_c("run_neural_plasticity.py", *arguments, "--output_dir", "run"),
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    steps = tmp_path / "run" / "metrics" / "steps.jsonl"
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        if steps.exists() and '"fine_tuning"' in steps.read_text():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    record = RunRecord.read(tmp_path / "run")
    assert record.config["status"] == "stopped"
    assert record.phases[-1].details == {"interrupted": True}
    assert record.events
    assert "interrupted" in (tmp_path / "run" / "metrics" / "phases.jsonl").read_text()
    assert (tmp_path / "run" / "dashboards" / "dashboard.html").stat().st_size > 0
    assert Path(tmp_path / "run" / "models" / "resume.json").is_file()


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("run_neural_plasticity.py", ["--pruning_level", "1.0"], "[0, 1)"),
        ("run_neural_plasticity.py", ["--pruning_level", "-0.1"], "[0, 1)"),
        ("run_neural_plasticity.py", ["--pruning_strategy", "fischer"], "did you mean 'fisher'"),
        ("run_neural_plasticity.py", ["--compare_strategies", "--strategies", "fisher,fisher"], "names one twice"),
        ("run_neural_plasticity.py", ["--dataset", "empty.txt"], "use a longer text"),
        ("run_neural_plasticity.py", ["--dataset", "short.txt"], "use a longer text"),
        (
            "run_neural_plasticity.py",
            ["--dataset", "words.txt", "--output_dir", "words.txt/run"],
            "is a file, not a folder",
        ),
        ("run_neural_plasticity.py", ["--dataset", "words.txt", "--output_dir", "used"], "not an empty folder"),
        ("run_neural_plasticity.py", ["--device", "cuda:7"], "device"),
        ("run_neural_plasticity.py", ["--resume", "nowhere"], "no run at"),
        (
            "run_neural_plasticity.py",
            ["--pruning_strategy", "controller", "--controller", "nowhere"],
            "no controller at",
        ),
        ("neural_plasticity_cycle.py", ["--initial_pruning", "1.5"], "initial_pruning must lie in [0, 1)"),
        ("neural_plasticity_cycle.py", ["--growth_strategy", "magic"], "unknown growth strategy"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(tmp_path, monkeypatch, capsys, text, script, arguments, message):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "short.txt").write_text("To be, or not to be.")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "note").write_text("mine")
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [script, "--quick_test", *arguments])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(ROOT / "scripts" / script), run_name="__main__")
    said = capsys.readouterr()
    assert stopped.value.code == 2
    assert message in said.err
    assert said.err.startswith("error: ")
    assert said.err.strip().count("\n") == 0
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before
