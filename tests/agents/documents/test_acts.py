"""The documents' command lines in one table: they can be read, a cut run goes on, figures are those of the files."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from plasticity_env import InputError
from plasticity_env.agents.commands.command_table import find_command
from plasticity_env.agents.studies.documents.act_playing import play_acts, run_command
from plasticity_env.agents.studies.documents.act_row import ActRow, act_rows
from plasticity_env.agents.studies.documents.act_tables import acts_table, said
from plasticity_env.agents.studies.documents.acts import ACTS, DOCUMENT, find_acts
from plasticity_env.common.arguments import parse

TINY = find_acts("quick test")[0]


@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.name)
def test_every_command_line_is_one_that_its_command_reads(act):
    for name, *words in act.commands("somewhere", 2):
        command = find_command(name)
        assert parse(command.arguments, words) != command.arguments()
        assert "{" not in " ".join(words)


def test_an_act_that_names_no_model_says_which_one_it_plays_on():
    unnamed = [(act, words) for act in ACTS for words in act.commands("somewhere", 0) if "--quick_test" in words]
    assert unnamed
    for act, (name, *words) in unnamed:
        assert "--model_name" not in words
        assert find_command(name).quick["model_name"] == act.model


def test_a_strategy_that_a_document_fixes_has_ours_beside_it():
    names = {act.name: act for act in ACTS}
    for act in ACTS:
        if act.beside:
            assert names[act.beside].asked == DOCUMENT
            assert levels(act) == levels(names[act.beside])
    assert len(names) == len(ACTS)


def levels(act):
    return re.findall(r"--(?:pruning_levels?|initial_pruning) (\S+)", act.lines[0])


@pytest.fixture
def played():
    """A play that leaves the figures of a run without playing it."""
    calls = []

    def run(words):
        calls.append(list(words))
        folder = Path(words[words.index("--output_dir") + 1])
        folder.mkdir(parents=True)
        final = {"ppl": 12.3, "flops_kept": 0.875}
        found = {"baseline": {"ppl": 20.0}, "final": final, "control": {"ppl": 12.0}}
        edits = {"prune": 5, "revive": 1, "grow": 0}
        (folder / "metrics.json").write_text(json.dumps({**found, "edits": edits}))

    run.calls = calls
    return run


def test_a_row_that_is_done_is_not_played_again(tmp_path, played):
    output, folder = tmp_path / "rows.jsonl", tmp_path / "plays"
    rows = list(play_acts([TINY], output, folder, run=played))
    assert [known for _, known in rows] == [False] * 3
    assert [row.seed for row, _ in rows] == [0, 1, 2]
    assert not any(folder.iterdir())
    lines = output.read_text().splitlines()
    output.write_text("\n".join(lines[:2]) + "\n")  # cut before the third
    again = list(play_acts([TINY], output, folder, run=played))
    assert [known for _, known in again] == [True, True, False]
    assert len(played.calls) == 4
    assert again[0][0] == rows[0][0]
    row = rows[0][0]
    assert (row.dense, row.ppl, row.control, row.flops_kept) == (20.0, 12.3, 12.0, 0.875)
    assert (row.pruned, row.revived, row.grown) == (5, 1, 0)
    assert row.over == pytest.approx(0.025)
    assert act_rows(output).read() == [row for row, _ in again]


def test_the_table_tells_goals_and_whose_flags_they_are():
    row = ActRow(TINY.name, TINY.asked, TINY.model, 0, ["plasticity run"], 20.0, 12.1, 12.0, 0.875, 5, 1, 0, 90.0)
    table = acts_table([row])
    assert "| quick test | our default | 1 | 12.10 | 12.00 | +0.8% | 87.5% | 5 | 1 | 0 | 1.5 |" in table
    assert "met, 1 of 3 seeds" in table
    assert "missed" in acts_table([replace(row, ppl=12.5)])
    assert "plasticity run" in table
    beside = find_acts("run, our strategy")[0]
    assert "the level of 'run, entropy' with this package's default strategy" in said(row, beside)


def test_what_fails_is_a_sentence(tmp_path):
    with pytest.raises(InputError, match="unknown act 'nothing'"):
        find_acts("nothing")
    with pytest.raises(InputError, match=r"failed \(code 2\): error: .*pruning_level"):
        run_command(["run", "--quick_test", "--pruning_level", "2", "--output_dir", str(tmp_path / "run")])


@pytest.mark.slow
def test_files_that_pass_a_checkpoint_on_have_a_control(tmp_path):
    """Slow: four commands in processes of their own."""
    act = find_acts("prune, grow, tune: entropy")[0]
    short = replace(act, lines=tuple(f"{line} --max_steps 1" if "fine-tune" in line else line for line in act.lines))
    ((row, _),) = play_acts([short], tmp_path / "rows.jsonl", tmp_path / "plays")
    assert row.grown == 2
    assert row.pruned == 5
    assert row.control is not None
    assert row.flops_kept < 1
