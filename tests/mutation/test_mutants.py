"""Faults are planted where they compute something, each parses, and the verdict on one is what its tests say."""

from __future__ import annotations

import ast
import json
import sys

import pytest

from tests.mutation.coverage_map import Contexts
from tests.mutation.mutants import mutants_of
from tests.mutation.running import CoverageMap, copied, coverage_table, drawn, judge, known, tally, work_through

SOURCE = '''"""A text with 1 + 1."""
from typing import Literal

LIMIT = 3


def larger(a: "int | None", b: Literal[1, 2]) -> bool:
    """Whether a is above b, 2 > 1."""
    if a is None:
        raise ValueError(f"{b + 1} is no number")
    print("größer")
    return a > b and not a == -LIMIT


def rounds(n):
    while n > 0:
        n -= 1
    return n
'''
TESTS = """from toy_source import larger, rounds

def test_larger():
    assert larger(2, 1)
    assert not larger(1, 1)

def test_rounds():
    assert rounds(2) == 0
"""


def changes(source):
    return {(m.line, m.before, m.after) for m in mutants_of("toy.py", source)}


def test_each_operator_number_condition_and_statement_is_a_fault_of_its_own():
    assert changes(SOURCE) == {
        (4, "3", "(4)"),
        (9, "a is None", "(a is not None)"),
        (11, 'print("größer")', "pass"),
        (12, "return a > b and not a == -LIMIT", "return None"),
        (12, "a > b and not a == -LIMIT", "(a > b or not a == -LIMIT)"),
        (12, "a > b", "(a >= b)"),
        (12, "not a == -LIMIT", "(a == -LIMIT)"),
        (12, "a == -LIMIT", "(a != -LIMIT)"),
        (12, "-LIMIT", "(LIMIT)"),
        (16, "n > 0", "(n >= 0)"),
        (16, "0", "(1)"),
        (17, "n -= 1", "n += 1"),
        (17, "1", "(2)"),
        (18, "return n", "return None"),
    }


def test_planted_faults_parse_and_change_nothing_else():
    for mutant in mutants_of("toy.py", SOURCE):
        planted = mutant.planted(SOURCE)
        ast.parse(planted)
        assert planted != SOURCE
        data = planted.encode()
        assert data[: mutant.start] == SOURCE.encode()[: mutant.start]
        assert data[mutant.start + len(mutant.after.encode()) :] == SOURCE.encode()[mutant.end :]
    assert len({mutant.key for mutant in mutants_of("toy.py", SOURCE)}) == len(mutants_of("toy.py", SOURCE))


@pytest.fixture
def project(tmp_path):
    root = tmp_path / "project"
    root.mkdir()
    (root / "toy_source.py").write_text(SOURCE, encoding="utf-8")
    (root / "test_toy_source.py").write_text(TESTS, encoding="utf-8")
    with copied(root, ("toy_source.py", "test_toy_source.py")) as copy:
        yield copy


LARGER, ROUNDS = "test_toy_source.py::test_larger", "test_toy_source.py::test_rounds"
WHERE = CoverageMap(
    lines={"toy_source.py": {"4": [], "9": [0], "11": [0], "12": [0], "16": [1], "17": [1], "18": [1]}},
    tests={LARGER: 0.01, ROUNDS: 0.02},
    failed=[],
    covered={"toy_source.py": (7, 8)},
    modules=[],
)


@pytest.mark.slow
def test_verdicts_are_those_of_the_tests_and_a_cut_run_goes_on(project, tmp_path):
    """Slow: a pytest of its own for every mutant."""
    results, said = tmp_path / "mutants.jsonl", []
    mutants = drawn(project, ("toy_source.py",), seed=1)
    wanted = ("a > b", "a is None", "n > 0", 'print("größer")', "3")
    chosen = [mutant for mutant in mutants if mutant.before in wanted]
    work_through(chosen[:2], results, project, WHERE, 5, said.append)
    with results.open("a") as file:
        file.write('{"key": "cut of')
    results.write_text("".join(line + "\n" for line in results.read_text().splitlines()[:-1]))
    work_through(chosen, results, project, WHERE, 5, said.append)
    assert len(said) == len(chosen)
    found = {(v["line"], v["before"]): v["status"] for v in known(results).values()}
    assert found[12, "a > b"] == found[9, "a is None"] == "killed"
    assert found[16, "n > 0"] == "killed"
    assert found[11, 'print("größer")'] == found[4, "3"] == "survived"
    assert (project / "toy_source.py").read_text(encoding="utf-8") == SOURCE
    table = tally(list(known(results).values()))
    assert "survived: toy_source.py:4 number: '3' -> '(4)'" in table
    assert "7 of      8 lines   87.5%" in coverage_table(WHERE)


def test_a_fault_that_never_ends_is_noticed(project, monkeypatch):
    (endless,) = [m for m in drawn(project, ("toy_source.py",), 0) if m.after == "n += 1"]
    monkeypatch.setattr("tests.mutation.running.LEAST_SECONDS", 1.0)
    assert judge(endless, project, [ROUNDS], 0.1)[0] == "timeout"
    assert judge(endless, project, [], 0.0)[0] == "uncovered"


def test_a_process_that_holds_the_package_without_the_fault_is_refused(project, monkeypatch):
    monkeypatch.setitem(sys.modules, "toy_source", object())
    with pytest.raises(RuntimeError, match="toy_source is imported already"):
        judge(drawn(project, ("toy_source.py",), 0)[0], project, [ROUNDS], 0.1)


def test_a_fault_that_only_runs_at_import_is_judged_by_the_tests_of_its_file():
    by_line = {m.line: WHERE.tests_of(m) for m in mutants_of("toy_source.py", SOURCE)}
    assert by_line[4] == [LARGER, ROUNDS]
    assert by_line[9] == by_line[12] == [LARGER]
    assert by_line[17] == [ROUNDS]


def test_coverage_is_told_which_test_runs(pytester_like):
    plugin, contexts = pytester_like
    assert contexts == ["a::one", "", "a::two", ""]
    assert plugin.failed == {"a::two"}
    assert json.dumps(plugin.seconds) == '{"a::one": 0.5, "a::two": 0.25}'


@pytest.fixture
def pytester_like():
    """The plugin, and what it told a coverage that only notes it."""
    contexts = []

    class Noting:
        def switch_context(self, name):
            contexts.append(name)

    class Item:
        def __init__(self, nodeid):
            self.nodeid = nodeid

    class Report(Item):
        def __init__(self, nodeid, duration, passed):
            super().__init__(nodeid)
            self.duration, self.passed = duration, passed

    plugin = Contexts(Noting())
    for name, seconds, passed in (("a::one", 0.5, True), ("a::two", 0.25, False)):
        steps = plugin.pytest_runtest_protocol(Item(name), None)
        next(steps)
        plugin.pytest_runtest_logreport(Report(name, seconds, passed))
        with pytest.raises(StopIteration):
            next(steps)
    return plugin, contexts
