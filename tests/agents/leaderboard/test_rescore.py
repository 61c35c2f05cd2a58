"""Masks of finished cells, repaired with other text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agents.leaderboard.cells import cell_file, row
from agents.leaderboard.players import read_player
from agents.leaderboard.playing import Rules, Table
from agents.leaderboard.rescore import RescoreConfig, rescore
from plasticity_env.errors import InputError

RULES = Rules("bard-gpt2-4x4", calibration_blocks=1, test_blocks=2)


def test_a_mask_is_scored_with_both_repairs(tmp_path: Path) -> None:
    player, tables = read_player("magnitude@1"), [Table(replace(RULES, calibration_blocks=count)) for count in (1, 2)]
    file = cell_file(tmp_path / "cells.jsonl")
    cells = [table.play(player, 0.5, 0) for table in tables]
    for cell in cells:
        file.append(row(cell))
    config = RescoreConfig(file.path, RULES.model_name, "magnitude@1", "1,2", seeds=1, test_blocks=2, batch_size=8)
    first, second = rescore(config).splitlines()[2:]
    assert cells[0].kept == cells[1].kept, "magnitude reads no text, so only the repair can differ"
    own = [f"{cell.deltas.mean():.4f}" for cell in cells]
    assert first == f"| magnitude@1 | 1 | {own[0]} | {own[1]} | 1 |"
    assert second == f"| magnitude@1 | 2 | {own[0]} | {own[1]} | 1 |"
    assert own[0] != own[1]
    with pytest.raises(InputError, match="play them first"):
        rescore(replace(config, players="ann@4"))
