"""What a page is told of a run: every line once, also while the run goes on, is rewound, or is a stranger's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from plasticity_env.agents.watching import line_tail
from plasticity_env.agents.watching.line_tail import LineTail
from plasticity_env.agents.watching.run_lines import RunLines
from plasticity_env.agents.watching.watch_server import names_of
from plasticity_env.common.errors import InputError
from plasticity_env.common.tracking import EpisodeStep, Tracker, TrackingOptions

PLAIN = TrackingOptions(tensorboard=False)
ALL, SOME = [[1, 1], [1, 1]], [[1, 0], [1, 0.5]]


def told(lines: RunLines) -> list[tuple[str, str, list[Any]]]:
    return [(event["kind"], event.get("file", ""), event.get("rows", event.get("said"))) for event in lines.news()]


def test_what_a_tracker_writes_is_what_a_page_is_told(tmp_path: Path) -> None:
    with Tracker(tmp_path, {}, PLAIN) as tracker:
        lines = RunLines(tmp_path)
        assert told(lines) == []
        tracker.log({"loss": 2.0, "bad": float("nan")}, 5)
        tracker.heads(ALL, 5, "toy", 1)
        assert told(lines) == [
            ("rows", "metrics", [{"global_step": 5, "loss": 2.0, "bad": None}]),
            ("rows", "heads", [{"global_step": 5, "model": "toy", "heads": 1, "active": ALL}]),
        ]
        for step in (6, 7):
            start, after = EpisodeStep(ALL, "the start"), EpisodeStep(SOME, "pruned", {"reward": 0.5})
            tracker.episode([start, after], step, "toy", "price 1")
        ((_, name, (episode,)),) = told(lines)
        assert (name, episode["global_step"], episode["title"], episode["heads"]) == ("episodes", 7, "price 1", 2)
        assert episode["steps"][1] == {"active": SOME, "note": "pruned", "numbers": {"reward": 0.5}}
        assert told(lines) == []


def test_a_changed_digit_is_a_problem(tmp_path: Path) -> None:
    with Tracker(tmp_path, {}, PLAIN) as tracker:
        tracker.log({"loss": 2.0}, 5)
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text().replace("2.0", "1.0"))
    assert told(RunLines(tmp_path)) == [("problem", "", "line 1 of metrics.jsonl is not a row of metrics: left out")]


def test_a_run_that_is_rewound_is_told_anew(tmp_path: Path) -> None:
    with Tracker(tmp_path, {}, PLAIN) as tracker:
        for step in (1, 2, 3):
            tracker.log({"x": float(step)}, step)
            tracker.heads(ALL, step)
        lines = RunLines(tmp_path)
        assert [len(rows) for _, _, rows in told(lines)] == [3, 3]
        tracker.rewind(1)
        tracker.log({"x": 9.0}, 2)
        assert told(lines) == [
            ("anew", "metrics", None),
            ("rows", "metrics", [{"global_step": 1, "x": 1.0}, {"global_step": 2, "x": 9.0}]),
            ("anew", "heads", None),
            ("rows", "heads", [{"global_step": 1, "model": "", "heads": 2, "active": ALL}]),
        ]


def test_a_line_counts_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = LineTail(path)
    assert tail.read().lines == []
    path.write_bytes(b"one\ntw")
    assert tail.read().lines == [b"one"]
    with path.open("ab") as file:
        file.write(b"o\nthree\n")
    assert tail.read().lines == [b"two", b"three"]
    path.write_bytes(b"1\n")
    read = tail.read()
    assert (read.anew, read.lines) == (True, [b"1"])
    path.unlink()
    assert tail.read().anew
    assert not tail.read().anew
    monkeypatch.setattr(line_tail, "PORTION", 4)
    path.write_bytes(b"ab\ncdefghij\n")
    parts = [tail.read() for _ in range(4)]
    assert b"".join(line for part in parts for line in part.lines) == b"abcdefghij"
    assert [part.more for part in parts] == [True, True, True, False]


BAD = {
    "metrics": [
        "[1]",
        "not JSON",
        '{"loss": 1}',
        '{"global_step": "3"}',
        '{"global_step": true}',
        '{"global_step": 1e3}',
    ],
    "heads": [
        '{"global_step": 1, "active": []}',
        '{"global_step": 1, "active": [[1], [1, 1]]}',
        '{"global_step": 1, "active": [[2]]}',
        '{"global_step": 1, "active": [[NaN]]}',
        '{"global_step": 1, "active": [["<b>"]]}',
        '{"global_step": 1, "active": [[1]], "heads": 2}',
        '{"global_step": 1, "active": [[1]], "model": 3}',
    ],
    "episodes": [
        '{"global_step": 1, "steps": []}',
        '{"global_step": 1, "steps": [{"active": [[1]]}, {"active": [[1, 1]]}]}',
        '{"global_step": 1, "steps": [{"active": [[1]], "numbers": 3}]}',
        '{"global_step": 1, "steps": {"active": [[1]]}}',
        '{"global_step": 1, "steps": [{"active": [[1]], "note": []}]}',
    ],
}


@pytest.mark.parametrize(("name", "line"), [(name, line) for name, lines in BAD.items() for line in lines])
def test_a_line_that_is_no_row_is_said_and_left_out(tmp_path: Path, name: str, line: str) -> None:
    good = {"metrics": {}, "heads": {"active": ALL}, "episodes": {"steps": [{"active": ALL}]}}
    text = json.dumps({"global_step": 1, **good[name]})
    (tmp_path / f"{name}.jsonl").write_text(f"{text}\n{line}\n{text}\n")
    events = told(RunLines(tmp_path))
    assert events[-1] == ("problem", "", f"line 2 of {name}.jsonl is not a row of {name}: left out")
    assert len(events[0][2]) == (1 if name == "episodes" else 2)


def test_numbers_that_json_lacks_are_not_passed_on(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(
        '{"global_step": 1, "a": NaN, "b": 1e999, "c": true, "d": "text", "e": 1}\n'
    )
    assert told(RunLines(tmp_path)) == [("rows", "metrics", [{"global_step": 1, "a": None, "b": None, "e": 1.0}])]


def test_a_cycle_from_before_there_were_heads_is_read_from_its_signals(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics.jsonl").touch()
    (tmp_path / "metrics" / "signals.jsonl").write_text(
        '{"cycle": 1, "phase": "measure", "step": 4, "active": [[1, 0]]}\n'
    )
    assert told(RunLines(tmp_path)) == [
        ("rows", "heads", [{"global_step": 4, "model": "", "heads": 2, "active": [[1.0, 0.0]]}])
    ]


def test_a_folder_without_lines_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no lines of a run: name the folder of one"):
        RunLines(tmp_path)


def test_names_tell_runs_apart(tmp_path: Path) -> None:
    one, two = tmp_path / "x" / "run", tmp_path / "y" / "run"
    assert names_of([one]) == ["run"]
    assert names_of([one, two, one]) == ["x/run", "y/run", "x/run (2)"]
