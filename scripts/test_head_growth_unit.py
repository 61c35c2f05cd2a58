"""Run the tests of head growth and say, one line a property, what was checked.

python scripts/test_head_growth_unit.py
"""

from __future__ import annotations

import io
import sys
from collections import defaultdict
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plasticity_env.common import cli
from plasticity_env.common.errors import InputError

__test__ = False  # a script, though its name begins like a test's
ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests" / "plasticity_env" / "growth"


@dataclass(frozen=True)
class GrowthTestConfig:
    """Arguments of the growth tests."""

    select: str = ""
    """only tests whose names match this, as pytest's -k takes it; empty runs all"""
    verbose: bool = False
    """show pytest's own output as well"""


class Listener:
    """A pytest plugin that counts the outcomes of each test function, over all of its parameters."""

    def __init__(self) -> None:
        self.outcomes: dict[tuple[str, str], list[str]] = defaultdict(list)
        self.failures: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            file, _, name = report.nodeid.partition("::")
            self.outcomes[file, name.partition("[")[0]].append(report.outcome)
        if report.failed:
            self.failures.append(report.longreprtext)

    def lines(self) -> list[str]:
        """What was checked, file by file."""
        said: list[str] = []
        for (file, name), outcomes in self.outcomes.items():
            if not said or f"{file}:" not in said:
                said.append(f"{file}:")
            mark = "FAILED" if "failed" in outcomes else "skipped" if set(outcomes) == {"skipped"} else "ok"
            cases = f" ({len(outcomes)} cases)" if len(outcomes) > 1 else ""
            said.append(f"  {mark:7} {name.removeprefix('test_').replace('_', ' ')}{cases}")
        return said


def main(config: GrowthTestConfig) -> None:
    """Run the tests of head growth and print what they checked; exits 1 where one fails."""
    try:
        import pytest
    except ImportError as error:
        raise InputError("pytest is not installed: pip install -e '.[dev]'") from error
    files = sorted(TESTS.glob("test_*.py"))
    if not files:
        raise InputError(f"no tests in {str(TESTS)!r}: run this script in a checkout of the repository")
    listener = Listener()
    options = [*map(str, files), f"--rootdir={ROOT}", "-p", "no:cacheprovider"]
    options += ["-k", config.select] if config.select else []
    quiet = io.StringIO()
    with nullcontext() if config.verbose else redirect_stdout(quiet), redirect_stderr(quiet):
        code = pytest.main(options, plugins=[listener])
    if code == pytest.ExitCode.USAGE_ERROR and config.select:
        raise InputError(
            f"--select {config.select!r} is no expression of pytest's -k: give words, with and, or, not between"
        )
    if code == pytest.ExitCode.NO_TESTS_COLLECTED:
        raise InputError(f"no growth test matches --select {config.select!r}")
    if not listener.outcomes:  # the tests did not even start
        sys.exit(quiet.getvalue() or int(code))
    cases = sum(map(len, listener.outcomes.values()))
    print("\n".join([*listener.failures, *listener.lines()]))
    print(f"{len(listener.outcomes)} properties of head growth in {cases} cases: {pytest.ExitCode(code).name.lower()}")
    sys.exit(int(code))


if __name__ == "__main__":
    cli.run(GrowthTestConfig, main)
