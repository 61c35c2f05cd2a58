"""Two programs on one folder or file: the second leaves with one sentence, before it does any work."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from plasticity_env import load_model, save_plastic
from plasticity_env.__main__ import main
from plasticity_env.common.at_work import at_work_in, at_work_on
from plasticity_env.envs.route import SHIPPED_TABLE
from tests.conftest import SMALL

ROOT = Path(__file__).parents[2]
MODEL = ("--model_name", SMALL["model_name"])
IN = {  # programs that write into a folder of their own
    "evaluate": (*MODEL, "--output_dir"),
    "train": ("--output_dir",),
    "tune": ("--output_dir",),
    "es": ("--output_dir",),
    "demo": ("--folder",),
    "grid": (*MODEL, "--output_dir"),
    "run": (*MODEL, "--output_dir"),
    "curves": ("--output_dir",),
    "tabular masks": ("--output_dir",),
}
ON = {  # programs that write one file, or replace a folder
    "prune": (*MODEL, "--output_path"),
    "prune --flops 0.9": (*MODEL, "--output_path"),
    "grow --model_path pruned.pth": (*MODEL, "--output_path"),
    "fine-tune --model_path pruned.pth --max_steps 1": (*MODEL, "--output_path"),
    "export": (*MODEL, "--output_path"),
    "leaderboard": ("--output",),
    "study": ("--output",),
    "documents": ("--output",),
    "tune-rule": ("--output",),
    f"tabular build --cells {ROOT / 'docs' / 'leaderboard' / 'cells.jsonl'}": ("--output_dir",),
    f"train-router {SHIPPED_TABLE}": ("--output",),
}


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    loaded = load_model(SMALL["model_name"])
    path = tmp_path_factory.mktemp("pruned") / "pruned.pth"
    save_plastic(loaded.model, path, loaded.tokenizer, loaded.name)
    return path


class Elsewhere:
    """Another thread, whose locks are not this one's: as good as another process."""

    def __init__(self, lock: Callable[[Path], AbstractContextManager[None]], place: Path) -> None:
        self._taken, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._hold, args=(lock, place))

    def _hold(self, lock: Callable[[Path], AbstractContextManager[None]], place: Path) -> None:
        with lock(place):
            self._taken.set()
            self._over.wait(60)

    def __enter__(self) -> None:
        self._thread.start()
        assert self._taken.wait(60)

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


@pytest.mark.parametrize(("program", "how"), [(name, how) for how, table in (("in", IN), ("on", ON)) for name in table])
def test_the_second_program_leaves_before_it_works(program, how, pruned, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pruned.pth").symlink_to(pruned)
    place = tmp_path / "place"
    flags = {"in": IN, "on": ON}[how][program]
    with Elsewhere(at_work_in if how == "in" else at_work_on, place):
        before = sorted(os.listdir(tmp_path))
        with pytest.raises(SystemExit) as stop:
            main([*program.split(), *flags, str(place)])
        after = sorted(os.listdir(tmp_path))
    assert stop.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith(f"error: another process is at work {how} '{place}"), said
    assert after == before


@pytest.mark.parametrize(
    ("program", "how", "place"),
    [("record", "on", "plasticity/heads/mine-v0"), ("clone --output_dir place", "in", "place")],
)
def test_the_second_to_write_a_data_set_or_a_clone_leaves(program, how, place, tmp_path, monkeypatch, capsys):
    pytest.importorskip("minari")
    monkeypatch.chdir(tmp_path)
    lock = at_work_in if how == "in" else at_work_on
    with Elsewhere(lock, tmp_path / place), pytest.raises(SystemExit) as stop:
        main([*program.split(), "--root", str(tmp_path), "--dataset_id", "plasticity/heads/mine-v0"])
    assert stop.value.code == 2
    assert f"error: another process is at work {how} " in capsys.readouterr().err
