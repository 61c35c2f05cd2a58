"""The W&B sweep: its file is understood, and what it gives is a training."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from plasticity_env import InputError
from plasticity_env.agents.sweeping import SweepConfig, read_sweep, sweep
from plasticity_env.agents.training.train_config import TrainConfig
from plasticity_env.common.arguments import parse

FILE = Path(__file__).parents[2] / "scripts" / "configs" / "sweep.yaml"


def test_every_choice_of_the_sweep_is_a_training():
    """As the agent calls the program: --name=value for each parameter."""
    definition = read_sweep(FILE)
    assert (FILE.parents[2] / definition["program"]).is_file()
    assert "--track" in definition["command"]
    choices = []
    for name, spec in definition["parameters"].items():
        values = [spec["value"]] if "value" in spec else spec.get("values") or [spec["min"], spec["max"]]
        choices.append([f"--{name}={value}" for value in values])
    longest = max(len(each) for each in choices)
    for words in itertools.islice(zip(*(itertools.cycle(each) for each in choices), strict=False), longest):
        config = parse(TrainConfig, ["--track", *words])
        assert config.env == "head_rank"
        assert config.tracking.track


def test_a_sweep_without_a_key_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="a sweep needs a W&B API key: run 'wandb login'"):
        sweep(SweepConfig(FILE))
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(InputError, match="WANDB_MODE is 'offline'"):
        sweep(SweepConfig(FILE))


def test_parameters_that_no_training_has_are_refused(tmp_path):
    path = tmp_path / "sweep.yaml"
    with pytest.raises(InputError, match="no sweep at"):
        read_sweep(path)
    path.write_text("method: random")
    with pytest.raises(InputError, match="is not a sweep"):
        read_sweep(path)
    path.write_text("parameters:\n  learning_rat:\n    value: 1\n")
    with pytest.raises(InputError, match=r"learning_rat.*did you mean 'learning_rate'"):
        read_sweep(path)
