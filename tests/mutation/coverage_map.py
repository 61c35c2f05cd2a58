"""Which test runs which line, how long each takes, and what share of each folder is covered: gathered in one run of pytest.

python -m tests.mutation.coverage_map map.json plasticity_env/model tests/plasticity_env/model ...
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest


class Contexts:
    """A pytest plugin that tells coverage which test is running, and notes how long each took and whether it passed."""

    def __init__(self, coverage: Any) -> None:
        self._coverage = coverage
        self.seconds: dict[str, float] = defaultdict(float)
        self.failed: set[str] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> Any:
        self._coverage.switch_context(item.nodeid)
        try:
            return (yield)
        finally:
            self._coverage.switch_context("")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] += report.duration
        if not report.passed:
            self.failed.add(report.nodeid)


def gather(sources: list[str], tests: list[str]) -> dict[str, Any]:
    """Run tests under coverage.

    Args:
        sources: Files and folders that are measured.
        tests: What pytest is given.

    Returns:
        ``lines``: file -> line -> numbers of tests; ``tests``: names and seconds; ``covered``: file -> (lines run, lines);
        ``modules``: what of other packages was imported.
    """
    import coverage

    measured = coverage.Coverage(
        data_file=None, include=[f"{name}/**" if Path(name).is_dir() else name for name in sources], config_file=False
    )
    measured.start()
    plugin = Contexts(measured)
    pytest.main(["-q", "-m", "not slow", "-p", "no:cacheprovider", *tests], plugins=[plugin])
    measured.stop()
    data, here = measured.get_data(), Path.cwd()
    names = sorted(name for name in plugin.seconds if name not in plugin.failed)
    numbers = {name: number for number, name in enumerate(names)}
    lines, covered = {}, {}
    for name in sorted(data.measured_files()):
        file = str(Path(name).relative_to(here))
        by_line = data.contexts_by_lineno(name)
        lines[file] = {
            line: sorted({numbers[context] for context in contexts if context in numbers})
            for line, contexts in by_line.items()
        }
        _, statements, _, missing, _ = measured.analysis2(name)
        covered[file] = (len(statements) - len(missing), len(statements))
    own = ("plasticity_env", "tests", "__main__", "coverage", "pytest", "_pytest")
    modules = [name for name in sys.modules if name.split(".")[0] not in own]
    return {
        "lines": lines,
        "tests": {name: plugin.seconds[name] for name in names},
        "failed": sorted(plugin.failed),
        "covered": covered,
        "modules": modules,
    }


if __name__ == "__main__":
    target, *words = sys.argv[1:]
    found = gather([w for w in words if not w.startswith("tests")], [w for w in words if w.startswith("tests")])
    Path(target).write_text(json.dumps(found), encoding="utf-8")
