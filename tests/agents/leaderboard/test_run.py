"""A run from the command line's point of view: resumes, compares, writes page, tables and documentation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from plasticity_env.agents.leaderboard.board_cells import cell_file
from plasticity_env.agents.leaderboard.board_run import current_cells, leaderboard
from plasticity_env.agents.leaderboard.leaderboard_config import LeaderboardConfig
from plasticity_env.agents.leaderboard.players import read_player
from plasticity_env.agents.leaderboard.playing import Table, packed_of
from plasticity_env.agents.leaderboard.report.board_tables import BEGIN, END, report
from plasticity_env.agents.leaderboard.workers import Job, finished, play, play_packed, single_cells, table_of
from plasticity_env.common.arguments import fill
from plasticity_env.common.errors import InputError
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
    page = played.output.with_name("leaderboard.html").read_text()
    leaderboard(replace(config, output=lines))
    assert (
        played.output.with_name("leaderboard.html").read_text() == page
    )  # each file of a folder has a page of its own
    assert "gradient" in lines.with_name("more_board").joinpath("leaderboard.html").read_text()
    assert lines.with_name("more_board").joinpath("leaderboard.jsonl").is_file()
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
    assert "area / best rule (fisher@4)" in text or "area / best rule (random@1)" in text
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
        ({"test_blocks": 0}, "test_blocks must be a whole number of at least 1"),
        ({"models": "bard-gpt2-4x4,bard-gpt2-4x5"}, "bard-gpt2-4x5"),
        ({"versus": "fisher@1"}, "unknown player of --versus 'fisher@1'"),
        ({"versus": "fisher@0"}, "at least one round"),
        ({"players": "fisher@four"}, "what follows @ must be a whole number of rounds"),
        ({"players": ""}, "holds no cell"),
        ({"submissions": "no_such.module:player"}, "'no_such.module:player@4' cannot be imported .*No module"),
        ({"submissions": "nobody"}, "nobody"),
    ],
)
def test_bad_input_is_one_sentence_before_anything_is_written(tmp_path: Path, change: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        leaderboard(fill(TINY, {"output": tmp_path / "x" / "cells.jsonl", **change}))
    assert not (tmp_path / "x").exists()


def test_a_page_that_lacks_a_mark_is_refused_before_anything_is_played(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(f"# Page\n{BEGIN}\n")
    with pytest.raises(InputError, match="each once"):
        leaderboard(replace(TINY, output=tmp_path / "x" / "cells.jsonl", docs=tmp_path / "page.md"))
    assert not (tmp_path / "x").exists()


def test_the_version_that_is_asked_for_counts_not_the_newest() -> None:
    player, other = read_player("mine@4"), read_player("other@4")
    old, new = ([replace(one, fingerprint=mark) for one in cells({player.text: 1.0})] for mark in "ab")
    rest = [replace(one, fingerprint="c") for one in cells({other.text: 1.0})]
    assert current_cells([*old, *new, *rest], {player: "a"}) == [*old, *rest]
    assert current_cells([*old, *new], {player: "b"}) == new
    assert current_cells([*old, *new], {player: "never twice"}) == [*old, *new]


def test_one_failed_cell_does_not_cost_the_others() -> None:
    def future(result: str | None = None) -> Future[str]:
        one: Future[str] = Future()
        one.set_running_or_notify_cancel()
        one.set_result(result) if result else one.set_exception(InputError("no"))
        return one

    waiting: Future[str] = Future()
    came: list[str] = []
    with pytest.raises(InputError, match="no"):
        came.extend(finished([future(), future("a"), waiting, future("b")]))
    assert sorted(came) == ["a", "b"]
    assert waiting.cancelled()


def test_beside_each_other_a_task_is_one_cell() -> None:
    jobs = [Job(TINY.rules("bard-gpt2-4x4"), read_player(name), 1, (0.5, 0.2)) for name in ("fisher", "gradient")]
    found = [(job.player.name, job.seed, job.shares) for job in single_cells(jobs)]
    assert found == [(name, 1, (share,)) for name in ("fisher", "gradient") for share in (0.5, 0.2)]


def test_boards_that_differ_in_blocks_alone_have_headings_of_their_own_and_are_not_averaged() -> None:
    shorter = replace(BOARD, calibration_blocks=2)
    lines = cells({"fisher@4": 1.0, "mine@4": 0.5})
    text = report([*lines, *cells({"fisher@4": 1.0, "mine@4": 0.8}, board=replace(BOARD, model="other"))])
    assert f"### {BOARD.title}\n" in text, "nothing is added where nothing else has the title"
    lines += cells({"fisher@4": 1.0, "mine@4": 0.9}, board=shorter, seeds=2)
    lines += cells({"fisher@4": 1.0, "mine@4": 0.5}, board=replace(BOARD, model="other"))
    text = report(lines)
    assert f"### {BOARD.title}, 4 calibration blocks\n" in text
    assert f"### {BOARD.title}, 2 calibration blocks\n" in text
    assert "Over 2 boards" in text
    assert "| mine@4 | 0.500 [0.500, 0.500] | 1 [1, 1] |\n" in text
    assert "| 2 [2, 2] |\n\nLeft out, as another board" in text
    assert f"has more cells: {BOARD.title}, 2 calibration blocks." in text


def test_one_seed_has_no_interval_over_seeds() -> None:
    lines = cells({"fisher@4": 1.0, "mine@4": 0.5}, seeds=1)
    lines += cells({"fisher@4": 1.0, "mine@4": 0.5}, seeds=1, board=replace(BOARD, model="other"))
    text = report(lines)
    assert "| mine@4 | 0.500 | 1 |" in text
    assert "0.500 [0.500, 0.500]" in text, "areas draw test blocks"


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
    """Slow: two workers import torch and play all cells anew."""
    config = replace(played, output=tmp_path / "cells.jsonl", workers=2, docs=None)
    leaderboard(config)
    mine, theirs = ({cell.key: cell for cell in cell_file(one.output).read()} for one in (config, played))
    assert set(mine) == set(theirs)
    for key, cell in mine.items():
        assert cell.kept == theirs[key].kept
        assert cell.test_losses == pytest.approx(theirs[key].test_losses, rel=1e-5)


WORKERS = (
    *("--players", "fisher@4,random@1,magnitude@2", "--shares", "0.2,0.3,0.4,0.5", "--seeds", "4", "--workers", "2"),
    *("--max_length", "32", "--calibration_blocks", "3", "--reward_blocks", "2", "--test_blocks", "4"),
)


@pytest.mark.slow
@pytest.mark.parametrize("ended", ["a worker", "the program"])
def test_a_death_is_one_sentence_keeps_cells_and_leaves_no_process(tmp_path: Path, ended: str) -> None:
    """Slow: the program and its two workers each import torch."""
    output = tmp_path / "cells.jsonl"
    command = [sys.executable, "-m", "plasticity_env", "leaderboard", *WORKERS, "--output", str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    program = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment)
    while program.poll() is None and not output.exists():
        time.sleep(0.05)
    children = [child for child in psutil.Process(program.pid).children() if "spawn_main" in " ".join(child.cmdline())]
    assert len(children) == 2
    if ended == "a worker":
        children[0].kill()
    else:
        program.terminate()
    said = (program.communicate()[1]).splitlines()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
    last = f"error: worker process {children[0].pid} was ended by SIGKILL" if ended == "a worker" else "stopped"
    assert said[-1].startswith(last)
    assert "Traceback" not in "\n".join(said)
    assert program.returncode == (2 if ended == "a worker" else 143)
    assert 0 < len(cell_file(output).read()) < 48
