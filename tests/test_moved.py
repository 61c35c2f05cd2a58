"""What was public before the modules moved is found today, at once or through the table of moved names."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import plasticity_env
from plasticity_env import controllers
from plasticity_env.agents.sb3.sb3 import PadHeads
from plasticity_env.common.moved import MOVED_MODULES
from tests.conftest import SMALL

ROOT = Path(__file__).parents[1]
EXTRAS = ("ray", "optuna", "minari", "fastapi", "uvicorn", "sklearn", "torch_pruning")
_RENAMED, _MODULES = (ROOT / "docs/reference/moved.md").read_text("utf-8").split("## Modules")
ROW = re.compile(r"^\| `([\w.]+)` \| (.+) \|$", re.MULTILINE)
ROWS = ROW.findall(_MODULES)
MODULES = {old: now.strip("`") for old, now in ROWS if re.fullmatch(r"`[\w.]+`", now)}
RENAMED = {old: now.strip("`") for old, now in ROW.findall(_RENAMED)}
NAMES = (ROOT / "tests/old_files/public_names.txt").read_text("utf-8").split()


def test_every_module_of_the_table_is_where_it_says() -> None:
    assert len(MODULES) > 200
    for old, now in MODULES.items():
        assert old != now
        try:
            importlib.import_module(now)
        except ModuleNotFoundError as missing:
            if missing.name not in EXTRAS:  # our own modules are all there
                raise
    for old, now in ROWS:
        if old not in MODULES:
            assert re.match(r"a study that has served|a template now: `([\w/]+)`|now in `", now), (old, now)


@pytest.mark.parametrize("module", sorted({name.partition(":")[0] for name in NAMES}))
def test_public_names_are_still_there(module: str) -> None:
    missing = []
    for old in (name.replace(":", ".") for name in NAMES if name.startswith(f"{module}:")):
        today, _, name = RENAMED.get(old, f"{MODULES.get(module, module)}.{old.rpartition('.')[2]}").rpartition(".")
        if not hasattr(importlib.import_module(today), name):
            missing.append(old)
    assert missing == []


def test_all_names_of_the_package_stay_in_all() -> None:
    then = {name.partition(":")[2] for name in NAMES if name.startswith("plasticity_env:")}
    assert len(then) == 59
    assert then <= set(plasticity_env.__all__)


def test_what_files_name_moves_to_where_the_table_says() -> None:
    assert {old: MODULES[old] for old in MOVED_MODULES} == MOVED_MODULES


class Decided(gym.Wrapper[Any, Any, Any, Any]):
    """Asks a controller in the process of the environment, and says which packages are known there by a former name."""

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(**kwargs)
        edits = np.asarray(controllers.make("fisher").act(observation))
        return observation, {**info, "edits": edits, "misnamed": len({"controllers", "agents"} & set(sys.modules))}


def _padded() -> gym.Env[Any, Any]:
    return PadHeads(Decided(gym.make("plasticity/Heads-v1", **SMALL, crossfit_signal=False)), 20)


def test_spawned_processes_know_controllers_and_agents_by_their_one_name() -> None:
    spawned = gym.vector.AsyncVectorEnv([_padded], context="spawn")
    try:
        seen, told = spawned.reset(seed=0)
    finally:
        spawned.close()
    here, info = _padded().reset(seed=0)
    assert told["misnamed"].tolist() == [0]
    assert told["edits"][0].tolist() == info["edits"].tolist()
    assert info["edits"].any()
    for name, value in here.items():
        np.testing.assert_allclose(seen[name][0], value, rtol=1e-5, atol=1e-6)
