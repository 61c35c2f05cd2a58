"""What is written is what is read, for whole runs and for those that were cut."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from plasticity_env import InputError
from plasticity_env.cycle.record import RunRecord, RunWriter
from plasticity_env.cycle.run_rows import (
    EvaluationRow,
    PhaseRow,
    PruningEvent,
    Sample,
    SignalsRow,
    Stabilisation,
    StepRow,
)

STEP = StepRow("experiment", 0, "warmup", 1, 3.5, 1.25, 5e-5)
EVALUATION = EvaluationRow("control", 1, "fine_tuning", 9, 3.0, math.exp(3.0), 1e6, 0.875, 14, 0.125, "test")
PHASE = PhaseRow(1, "pruning", 4, 4, 0.5, {"decider": "fisher", "pruned": 2})
SIGNALS = SignalsRow(1, "analysis", 4, [[1, 0]], [[1.0, 0.0]], {"fisher": [[0.5, 0.25]]})
STABLE = Stabilisation(2, 0.01, [3.0, 2.0], [2.5], None, "the loss still fell")
EVENT = PruningEvent(1, 4, "pruning", "prune", 0, 1, "fisher", {"fisher": 0.25}, "lowest Fisher score")
SAMPLE = Sample("baseline", 0, "To be,", " or not")


def write(folder):
    writer = RunWriter(folder)
    writer.config({"status": "running", "settings": {"seed": 0}})
    writer.step(STEP)
    writer.evaluation(EVALUATION)
    writer.phase(PHASE)
    writer.signals(SIGNALS)
    writer.stabilisation(STABLE)
    writer.add_events([EVENT])
    writer.add_sample(SAMPLE)
    writer.summary({"final": {"ppl": 20.0}})
    writer.log("hello")
    return writer


def test_a_run_reads_back_as_it_was_written(tmp_path):
    write(tmp_path).status("finished")
    read = RunRecord.read(tmp_path)
    assert read.config == {"status": "finished", "settings": {"seed": 0}}
    assert (read.steps, read.evaluations, read.phases, read.signals) == ([STEP], [EVALUATION], [PHASE], [SIGNALS])
    assert (read.stabilisation, read.events, read.samples) == (STABLE, [EVENT], [SAMPLE])
    assert read.summary == {"final": {"ppl": 20.0}}
    assert "hello" in (tmp_path / "experiment.log").read_text()
    for name in ("warmup", "pruning", "fine_tuning", "metrics", "visualizations", "dashboards", "models"):
        assert (tmp_path / name).is_dir()


def test_a_cut_line_and_missing_files_are_tolerated(tmp_path):
    write(tmp_path).close()
    with (tmp_path / "metrics/steps.jsonl").open("a") as file:
        file.write('{"arm": "experiment", "cyc')
    (tmp_path / "metrics/signals.jsonl").unlink()
    (tmp_path / "pruning_events.json").unlink()
    read = RunRecord.read(tmp_path)
    assert read.steps == [STEP]
    assert read.signals == []
    assert read.events == []
    with pytest.raises(InputError, match="no run at"):
        RunRecord.read(tmp_path / "nowhere")


def test_numbers_that_are_not_finite_stay_strict_json(tmp_path):
    RunWriter(tmp_path).step(dataclasses.replace(STEP, loss=math.inf))
    row = json.loads((tmp_path / "metrics/steps.jsonl").read_text())
    assert row["loss"] is None
    RunWriter(tmp_path).config({"status": "running"})
    assert math.isnan(RunRecord.read(tmp_path).steps[0].loss)


def test_a_changed_digit_is_refused_and_earlier_lines_are_spoken_of(tmp_path):
    writer = write(tmp_path)
    position = writer.position()
    path = tmp_path / "metrics/steps.jsonl"
    whole = path.read_text()
    path.write_text(whole.replace("3.5", "3.6"))
    for reading in (lambda: RunRecord.read(tmp_path), lambda: RunWriter(tmp_path).rewind(position)):
        with pytest.raises(
            InputError, match=r"line 1 of .*steps.jsonl' is no row of a run \(it is damaged: its check differs\)"
        ):
            reading()
    path.write_text(json.dumps({name: value for name, value in json.loads(whole).items() if name != "check"}) + "\n")
    with pytest.warns(UserWarning, match=r"1 of 1 lines of .*steps.jsonl' carry no check"):
        assert RunRecord.read(tmp_path).steps == [STEP]


def test_rewinding_forgets_what_came_after(tmp_path):
    writer = write(tmp_path)
    position = writer.position()
    before = RunRecord.read(tmp_path)
    writer.step(STEP)
    writer.phase(PHASE)
    writer.add_events([EVENT, EVENT])
    writer.add_sample(SAMPLE)
    RunWriter(tmp_path).rewind(position)
    after = RunRecord.read(tmp_path)
    assert after == before


def test_a_run_does_not_go_on_without_its_rows_and_drops_no_line_that_it_did_not_write(tmp_path):
    writer = write(tmp_path)
    position = writer.position()
    path = tmp_path / "metrics/steps.jsonl"
    whole = path.read_text()
    path.write_text(whole + "my own note\n")
    with pytest.raises(InputError, match=r"line 2 of .*steps.jsonl' is no row of a run"):
        RunWriter(tmp_path).rewind(position)
    assert path.read_text() == whole + "my own note\n"
    with pytest.raises(InputError, match=r"line 2 of .*steps.jsonl' is no row of a run"):
        RunRecord.read(tmp_path)
    path.write_text("")
    with pytest.raises(InputError, match=r"steps.jsonl' holds 0 rows, the run's checkpoint is 1 rows in"):
        RunWriter(tmp_path).rewind(position)
    path.write_text(whole)
    events = tmp_path / "pruning_events.json"
    events.write_text(events.read_text()[:-9])
    with pytest.raises(InputError, match=r"pruning_events.json' is damaged"):
        RunWriter(tmp_path)
