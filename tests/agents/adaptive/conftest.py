"""One small study, played once: every kind of arm that has something of its own."""

from __future__ import annotations

import pytest

from plasticity_env import load_model
from plasticity_env.agents.studies.adaptive.study import load_texts, run_study
from plasticity_env.agents.studies.adaptive.study_setting import Setting

SETTING = Setting(
    stages="home,shift",
    decisions=2,
    train_steps=1,
    batch_size=2,
    block_size=16,
    calibration_blocks=4,
    reward_blocks=2,
    test_blocks=2,
    draws=2,
)
ARMS = ["once", "compressed:fisher", "rule:random", "grow:random", "thresholds"]


@pytest.fixture(scope="session")
def texts(tmp_path_factory, text_file):
    path = tmp_path_factory.mktemp("text") / "other.txt"
    path.write_text("The mill stands by the river, and the river runs to the sea; who asks the sea? " * 100)
    return load_texts(load_model("bard-gpt2-4x4"), SETTING, text_file, str(path), "river")


@pytest.fixture
def loaded():
    """A model of one's own: environments that train leave their weights in it."""
    return load_model("bard-gpt2-4x4")


@pytest.fixture(scope="session")
def cells(texts, tmp_path_factory):
    """Cells of one seed by arm, and the file that holds them."""
    path = tmp_path_factory.mktemp("study") / "cells.jsonl"
    played = run_study(load_model("bard-gpt2-4x4"), texts, SETTING, path, arms=ARMS, seeds=1)
    return {cell.arm: cell for cell, _ in played}, path
