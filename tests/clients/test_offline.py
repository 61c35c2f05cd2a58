"""TorchRL learns from a recorded Minari data set by the page's own program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from plasticity_env.__main__ import main
from tests.conftest import SMALL
from tests.page_blocks import ROOT, blocks

pytest.importorskip("torchrl", reason="TorchRL is not installed: make clients installs it")
pytest.importorskip("minari", reason="Minari is not installed: make clients installs it")


def test_the_pages_program_learns_and_plays(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "runs/minari"))
    small = [
        f"--{name}={value}"
        for name, value in SMALL.items()
        if name not in ("flop_price", "residual_signal", "obs_signal")
    ]
    main(["record", "--env", "head_edit", "--quality", "mixed", "--episodes", "4", "--root", "runs/minari", *small])
    (program,) = [
        str(example.parsed)
        for example, mark in blocks(ROOT / "docs/how-to/offline_rl.md")
        if mark == "needs: another program"
    ]
    assert "range(1000)" in program
    names: dict[str, Any] = {}
    short = program.replace("range(1000)", "range(20)").replace("2030", "2002")
    exec(compile(short, "offline_rl.md", "exec"), names)
    returns = [names["played"](names["learnt"], seed) for seed in (2000, 2001)]
    assert float(capsys.readouterr().out.split()[-1]) == pytest.approx(sum(returns) / 2)
    assert all(value.isfinite().all() for value in names["values"].parameters())
    allowed = names["data"]["action_mask"].gather(-1, names["data"]["action"][:, None])
    assert allowed.all()
