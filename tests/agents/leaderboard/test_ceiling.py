"""Searches that start at a finished cell's mask."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from agents.leaderboard.ceiling import CeilingConfig, OnText, ceiling
from agents.leaderboard.cells import Cell, cell_file, row
from agents.leaderboard.players import read_player
from agents.leaderboard.playing import Rules, Table
from plasticity_env.errors import InputError

RULES = Rules("bard-gpt2-4x4", calibration_blocks=1, test_blocks=4)


def test_a_search_gains_on_the_text_that_it_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, begin = [], OnText.__init__

    def spy(self: OnText, table: Table, cell: Cell, ids: Tensor) -> None:
        read.append(ids)
        begin(self, table, cell, ids)

    monkeypatch.setattr(OnText, "__init__", spy)
    file, table = cell_file(tmp_path / "cells.jsonl"), Table(RULES)
    cell = table.play(read_player("entropy_low@1"), 0.4, 0)  # a poor mask
    file.append(row(cell))
    config = CeilingConfig(
        file.path, RULES.model_name, player="entropy_low@1", shares="0.4", evaluations=12,
        calibration_blocks=1, test_blocks=4,
    )  # fmt: skip
    head, _, *rows = ceiling(config).splitlines()
    named = {line.split(" | ")[0].strip("| "): line.split(" | ")[1:4] for line in rows}
    assert len(read[0]) == len(read[1]) == 2
    assert torch.equal(read[1], table.tested[::2])
    assert any(torch.equal(read[0][0], block) for block in table.workbench.text.blocks("reward"))
    start, reward, test = ([float(value.split(" ")[0]) for value in values] for values in named.values())
    assert list(named) == ["entropy_low@1", "search on reward split", "search on first half of the test"]
    assert head.count("|") == 6
    np.testing.assert_allclose(np.mean(start[1:]), cell.deltas.mean(), atol=1e-4)
    assert reward[0] < start[0]
    assert test[1] < start[1], "each search found better on its own text"
    with pytest.raises(InputError, match="play them first"):
        ceiling(replace(config, player="ann@4"))
