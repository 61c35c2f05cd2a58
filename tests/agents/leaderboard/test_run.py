"""A run from the command line's point of view: resumes, compares, writes page, tables and documentation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from agents.leaderboard.cells import cell_file
from agents.leaderboard.players import read_player
from agents.leaderboard.playing import Table, packed_of
from agents.leaderboard.run import LeaderboardConfig, leaderboard
from agents.leaderboard.tables import BEGIN, END, report
from agents.leaderboard.workers import Job, play, play_packed, table_of
from plasticity_env.errors import InputError
from tests.agents.leaderboard.conftest import TINY
from tests.agents.leaderboard.fake import BOARD, cells


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> LeaderboardConfig:
    folder = tmp_path_factory.mktemp("leaderboard")
    docs = folder / "docs.md"
    docs.write_text(f"# Before\n{BEGIN}\nold\n{END}\nAfter\n")
    config = replace(TINY, output=folder / "cells.jsonl", docs=docs)
    leaderboard(config)
    return config


def test_a_second_run_plays_only_what_is_new(played: LeaderboardConfig, capsys: pytest.CaptureFixture[str]) -> None:
    before = played.output.read_text()
    assert len(before.splitlines()) == 8
    leaderboard(played)
    assert played.output.read_text() == before
    config = replace(played, players="gradient@1,fisher@4", seeds=1, docs=None)
    lines = played.output.with_name("more.jsonl")
    lines.write_text(before[:-40])  # the last cell was cut off
    leaderboard(replace(config, output=lines, page=lines.with_suffix(".html")))
    added = cell_file(lines).read()[7:]
    assert [(cell.player, cell.share, cell.seed) for cell in added] == [("gradient@1", 0.2, 0), ("gradient@1", 0.5, 0)]
    assert "2 cells to play" in capsys.readouterr().err


def test_tables_page_documentation_and_table_for_wandb_are_written(played: LeaderboardConfig) -> None:
    assert played.docs is not None
    text = played.docs.read_text()
    assert text.startswith(f"# Before\n{BEGIN}")
    assert text.endswith(f"{END}\nAfter\n")
    assert "old" not in text
    assert "| fisher@4 |" in text
    assert "area / fisher@4" in text or "area / random@1" in text
    page = (played.output.parent / "leaderboard.html").read_text()
    assert "http" not in page.split('id="page-data"')[1].split("</script>")[0]
    rows = [json.loads(line) for line in (played.output.parent / "leaderboard.jsonl").read_text().splitlines()]
    assert [(row["player"], row["share"]) for row in rows[:2]] == [("fisher@4", 0.2), ("fisher@4", 0.5)]
    assert json.loads((played.output.parent / "wandb_run.json").read_text())["offline_folders"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"players": "fishr"}, "fishr"),
        ({"shares": "0.2,1.5"}, "shares"),
        ({"models": ""}, "model"),
        ({"seeds": 0}, "seeds"),
        ({"workers": 0}, "workers"),
        ({"docs": Path("nowhere.md")}, "nowhere.md"),
        ({"submissions": "nobody"}, "nobody"),
    ],
)
def test_bad_input_is_one_sentence_before_anything_is_written(tmp_path: Path, change: dict, said: str) -> None:
    config = replace(TINY, output=tmp_path / "x" / "cells.jsonl", **change)
    with pytest.raises(InputError, match=said):
        leaderboard(config)
    assert not (tmp_path / "x").exists()


def test_a_file_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "cells.jsonl"
    file.write_text('{"score": 1}\n')
    with pytest.raises(InputError, match="line 1"):
        leaderboard(replace(TINY, output=file))
    assert file.read_text() == '{"score": 1}\n'


def test_report_says_what_is_missing_and_compares_over_boards() -> None:
    lines = cells({"fisher@4": 1.0, "mine@4": 0.5})
    other = replace(BOARD, model="other", units="heads+mlp", mlp_blocks=2)
    third = replace(BOARD, model="third")
    lines += cells({"fisher@4": 1.0, "mine@4": 0.5}, board=third)
    lines += cells({"fisher@1": 1.0, "mine@4": 0.5}, board=other)
    text = report(lines[:-1], ["mine@4"])
    assert "Not all cells are played yet: mine@4" in text
    assert "Over 2 boards" in text
    assert "| mine@4 | 0.500 [0.500, 0.500] | 1 [1, 1] |" in text
    assert "2.000 [2.000, 2.000]" in text  # fisher's area over mine's


def test_a_packed_model_plays_the_same_cell(table: Table) -> None:
    job = Job(table.rules, read_player("fisher@2"), 0, (0.5,))
    (here,) = play(job)
    assert table_of(table.rules) is table
    (there,) = play_packed(packed_of(table.rules), job)
    assert table_of(table.rules) is not table
    assert (there["kept"], there["board"]) == (here["kept"], here["board"])
    assert there["test_losses"] == pytest.approx(here["test_losses"], rel=1e-6)


@pytest.mark.slow
def test_two_processes_play_the_same_cells(played: LeaderboardConfig, tmp_path: Path) -> None:
    config = replace(played, output=tmp_path / "cells.jsonl", workers=2, docs=None)
    leaderboard(config)
    mine, theirs = ({cell.key: cell for cell in cell_file(one.output).read()} for one in (config, played))
    assert set(mine) == set(theirs)
    for key, cell in mine.items():
        assert cell.kept == theirs[key].kept
        assert cell.test_losses == pytest.approx(theirs[key].test_losses, rel=1e-5)
