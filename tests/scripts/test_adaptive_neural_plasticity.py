"""The online controller from the command line."""

from __future__ import annotations

import json

import torch

from plasticity_env import controllers, load_plastic
from plasticity_env.controllers import ANNController
from plasticity_env.cycle import RunRecord

SCRIPT = "adaptive_neural_plasticity.py"


def test_a_quick_run_leaves_its_files(tmp_path, run_here):
    """Slow: a whole run of the script with its pictures; wandb and matplotlib are imported."""
    text = tmp_path / "text.txt"
    text.write_text("To be, or not to be, that is the question: whether 'tis nobler in the mind to suffer. " * 600)
    folder = tmp_path / "run"
    sizes = ("--max_length", 32, "--cycles", 1, "--pruning_mode", "compressed", "--pruning_level", 0.5)
    done = run_here(
        SCRIPT, "--quick_test", "--verbose", "--dataset", text, *sizes, "--entropy_threshold", 0, "--output_dir", folder
    )
    assert done.returncode == 0, done.stderr
    assert f"run: {folder}" in done.stdout
    assert "may be pruned" in done.stderr
    assert "paid" in done.stderr
    for name in ("complete_process.png", "multi_cycle_process.png", "attention_heatmaps.png", "dashboard.html"):
        assert (folder / "dashboards" / name).stat().st_size > 0
    for name in ("experiment.log", "metrics.json", "metrics/steps.jsonl", "warmup/stabilisation.json"):
        assert (folder / name).stat().st_size > 0
    weights = torch.load(folder / "controller.pt", weights_only=True)
    assert controllers.make(str(folder / "controller.pt")).network.config.context == "linear"  # the shipped ranking's
    controller = ANNController.load(folder / "controller")
    assert all(torch.equal(value, weights[name]) for name, value in controller.network.state_dict().items())
    record = RunRecord.read(folder)
    assert record.config["status"] == "finished"
    events = json.loads((folder / "pruning_events.json").read_text())
    assert events
    for event in events:
        assert event["edit"] == "prune"
        assert event["signals"]["entropy"] >= 0
        assert "probability" in event["reason"]
    model = load_plastic(folder / "pruned_model").model
    assert sorted((e["layer"], e["head"]) for e in events) == [
        tuple(where) for where in (~model.active).nonzero().tolist()
    ]
    history = [json.loads(line) for line in (folder / "metrics" / "controller.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in history] == [4, 6, 8]
    assert all("reward" in entry for entry in history)


def test_bad_input_is_one_sentence(tmp_path, run_here):
    result = run_here(SCRIPT, "--quick_test", "--controller_lr", -1, "--output_dir", tmp_path / "run")
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("error: controller_lr must lie in [0, 100], got -1.0")
    assert not (tmp_path / "run").exists()
