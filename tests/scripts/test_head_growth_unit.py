"""The script that runs the growth tests says what they checked, and fails where they do."""

from __future__ import annotations

import runpy
from types import SimpleNamespace

from tests.scripts.test_scripts import ROOT

SCRIPT = "test_head_growth_unit.py"


def test_it_says_what_was_checked(run_here):
    done = run_here(SCRIPT, "--select", "schedule or emptiest")
    assert done.returncode == 0, done.stderr
    assert "ok      the schedule is the line of the formula" in done.stdout
    assert "ok      balanced fills the emptiest layer one head at a time" in done.stdout
    assert done.stdout.endswith("2 properties of head growth in 2 cases: ok\n")


def test_nothing_to_run_is_one_sentence_exit_2(run_here):
    done = run_here(SCRIPT, "--select", "no_such_property")
    assert done.returncode == 2
    assert done.stderr == "error: no growth test matches --select 'no_such_property'\n"


def test_a_failure_is_told_and_pytest_does_not_collect_the_script():
    held = runpy.run_path(str(ROOT / "scripts" / SCRIPT))
    assert not [name for name in held if name.startswith(("test_", "Test"))]
    listener = held["Listener"]()
    for name, when, outcome in (("a[1]", "call", "passed"), ("a[2]", "call", "failed"), ("b", "setup", "failed")):
        listener.pytest_runtest_logreport(
            SimpleNamespace(
                nodeid=f"f.py::test_{name}", when=when, outcome=outcome, failed=outcome == "failed", longreprtext="why"
            )
        )
    assert listener.lines() == ["f.py:", "  FAILED  a (2 cases)", "  FAILED  b"]
    assert listener.failures == ["why", "why"]
