"""TorchRL learns from a recorded Minari data set by the page's own program."""

from __future__ import annotations

from pathlib import Path

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
    names: dict[str, object] = {}
    exec(compile(program.replace("range(1000)", "range(20)"), "offline_rl.md", "exec"), names)
    assert float(capsys.readouterr().out.split()[-1]) == pytest.approx(names["total"])
    assert all(value.isfinite().all() for value in names["values"].parameters())  # type: ignore[attr-defined]
    allowed = names["data"]["action_mask"].gather(-1, names["data"]["action"][:, None])  # type: ignore[index]
    assert allowed.all()
