"""An install without extras: what is missing is one sentence that names the extra, and the rest works."""

from __future__ import annotations

import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from plasticity_env.agents.es import LinearSearch
from plasticity_env.agents.es_config import ESConfig
from plasticity_env.agents.training.agent import find_agent
from plasticity_env.common.errors import InputError
from plasticity_env.common.packages import EXTRAS
from plasticity_env.common.tracking import Tracker, TrackingOptions
from plasticity_env.plots.rendering import show


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """No package of any extra can be imported."""
    for package in {name for names in EXTRAS.values() for name in names}:
        monkeypatch.setitem(sys.modules, package, None)


@pytest.mark.parametrize(("name", "package"), [("es", "cma"), ("sb3_maskable_ppo", "sb3-contrib")])
def test_agents_name_the_extra(name: str, package: str) -> None:
    with pytest.raises(InputError, match=rf"{package} is not installed: pip install 'plasticity-env\[rl\]'"):
        find_agent(name).learner(None, [])
    assert find_agent("sb3_ppo").missing() is None


def test_a_search_names_the_extra(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cma is not installed: pip install 'plasticity-env\[rl\]'"):
        LinearSearch(ESConfig(), tmp_path)


def test_a_window_names_the_extra() -> None:
    with pytest.raises(InputError, match=r"pygame is not installed: pip install 'plasticity-env\[human\]'"):
        show(gym.Env(), np.zeros((4, 4, 3), dtype=np.uint8), 2)


def test_a_run_is_tracked_without_tensorboard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Tracker(tmp_path, {}, TrackingOptions()) as tracker:
        tracker.log({"loss": 1.0}, 1)
    said = capsys.readouterr().err
    assert "tensorboard is not installed: pip install 'plasticity-env[track]'; metrics.jsonl is written" in said
    assert (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")
    assert not (tmp_path / "tensorboard").exists()
