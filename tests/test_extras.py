"""An install without extras: what is missing is one sentence that names the extra, and the rest works."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from plasticity_env.agents.commands import serve_command
from plasticity_env.agents.es import LinearSearch
from plasticity_env.agents.es_config import ESConfig
from plasticity_env.agents.offline.minari_files import stored_in
from plasticity_env.agents.rllib.ray_session import ray_session
from plasticity_env.agents.serving.serve_config import ServeConfig
from plasticity_env.agents.training.agent import find_agent
from plasticity_env.agents.tuning.optuna_study import tune
from plasticity_env.agents.tuning.study_config import StudyConfig
from plasticity_env.common.errors import InputError
from plasticity_env.common.packages import EXTRAS
from plasticity_env.common.tracking import Tracker, TrackingOptions
from plasticity_env.controllers.planners import make_planner
from plasticity_env.dynamic.clusters import cluster_bank
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


def _cluster() -> None:
    with ray_session("local", 1):
        pass


ENTRANCES = {  # extra -> its package, and what asks for it
    "ray": ("ray", _cluster),
    "bench": ("torch-pruning", lambda: make_planner("torch_pruning")),
    "dynamic": ("sklearn", lambda: cluster_bank(None, torch.zeros(64, 8, dtype=torch.long))),  # type: ignore[arg-type]
    "offline": ("minari", lambda: stored_in(None).__enter__()),
    "tune": ("optuna", lambda: tune(StudyConfig())),
    "serve": ("fastapi", lambda: serve_command.main(ServeConfig(bank=Path("no_folder"), model_name="bard-gpt2-4x4"))),
}


@pytest.mark.parametrize("extra", ENTRANCES)
def test_each_further_extra_is_named_where_it_is_asked_for(extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package, ask = ENTRANCES[extra]
    if extra == "ray":
        monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=rf"{package} is not installed: pip install 'plasticity-env\[{extra}\]'"):
        ask()


def test_every_extra_is_told_of_here() -> None:
    extras = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert set(EXTRAS) == set(extras) - {"all", "docs", "dev"} == {*ENTRANCES, "rl", "track", "human"}


def test_a_run_is_tracked_without_tensorboard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Tracker(tmp_path, {}, TrackingOptions()) as tracker:
        tracker.log({"loss": 1.0}, 1)
    said = capsys.readouterr().err
    assert "tensorboard is not installed: pip install 'plasticity-env[track]'; metrics.jsonl is written" in said
    assert (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")
    assert not (tmp_path / "tensorboard").exists()
