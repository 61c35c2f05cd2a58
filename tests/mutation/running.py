"""Plants faults one by one in a copy of the checkout, and sees whether the tests of that line notice."""

from __future__ import annotations

import gc
import importlib
import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.mutation.mutants import Mutant, mutants_of

SOURCES = (
    "plasticity_env/signals",
    "plasticity_env/repair",
    "plasticity_env/model/compact",
    "plasticity_env/model/gated_model.py",
    "plasticity_env/model/plastic_model.py",
    "plasticity_env/model/unit_weights.py",
    "plasticity_env/model/applied_repairs.py",
    "plasticity_env/model/flops.py",
    "plasticity_env/envs/rewards.py",
    "plasticity_env/envs/observation.py",
    "plasticity_env/envs/head_tokens.py",
)
TESTS = (
    *(f"tests/plasticity_env/{room}" for room in ("signals", "model", "repair", "envs")),
    "tests/controllers/test_controllers.py",  # scores are tested where they are played
)
COPIED = ("plasticity_env", "controllers", "agents", "scripts", "tests", "pyproject.toml")
LEAST_SECONDS = 30.0  # of the processor that a mutant's tests are given, with five times what they take without it
WALL = 20  # times as many by the clock, for a machine that does other work
SHARE_OF_TESTS = 30.0  # seconds of tests for one mutant, the quickest first


@dataclass(frozen=True)
class CoverageMap:
    """What `tests.mutation.coverage_map` gathered."""

    lines: dict[str, dict[str, list[int]]]
    tests: dict[str, float]
    failed: list[str]
    covered: dict[str, tuple[int, int]]
    modules: list[str]

    def tests_of(self, mutant: Mutant) -> list[str]:
        """Tests that run a mutant's lines, the quickest first; of lines that run at import those of the whole file."""
        names, lines = list(self.tests), self.lines.get(mutant.file, {})
        numbers: set[int] = set()
        at_import = False
        for line in range(mutant.line, mutant.end_line + 1):
            found = lines.get(str(line))
            numbers.update(found or ())
            at_import |= found == []
        if not numbers and at_import:
            numbers = {number for each in lines.values() for number in each}
        chosen: list[str] = []
        seconds = 0.0
        for name in sorted((names[number] for number in numbers), key=lambda name: self.tests[name]):
            seconds += self.tests[name]
            if chosen and seconds > SHARE_OF_TESTS:
                break
            chosen.append(name)
        return chosen


@contextmanager
def copied(root: Path, parts: tuple[str, ...] = COPIED, compiled: bool = False) -> Iterator[Path]:
    """A copy of the checkout in a temporary folder; compiled files are checked by content, for a fault may be quick.

    Args:
        root: The checkout, or such a copy.
        parts: What is copied.
        compiled: Whether it is such a copy, whose compiled files are taken along.
    """
    left_out = () if compiled else ("__pycache__",)
    with tempfile.TemporaryDirectory(prefix="mutants_") as folder:
        copy = Path(folder)
        for name in parts:
            if (root / name).is_dir():
                shutil.copytree(root / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns(*left_out))
            else:
                shutil.copy(root / name, copy / name)
        if not compiled:
            command = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash", str(copy)]
            subprocess.run(command, check=True)
        yield copy


def gathered(file: Path, copy: Path, sources: tuple[str, ...], tests: tuple[str, ...]) -> CoverageMap:
    """The coverage map, from its file or gathered anew."""
    if not file.exists():
        environment = {**os.environ, "PYTHONPATH": f"{copy}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        command = [sys.executable, "-m", "tests.mutation.coverage_map", str(file.absolute()), *sources, *tests]
        subprocess.run(command, cwd=copy, env=environment, check=True)
    return CoverageMap(**json.loads(file.read_text(encoding="utf-8")))


def drawn(root: Path, sources: tuple[str, ...], seed: int) -> list[Mutant]:
    """All faults of all sources, in an order that the seed decides."""
    files = [
        f
        for name in sources
        for f in (sorted((root / name).rglob("*.py")) if (root / name).is_dir() else [root / name])
    ]
    found = [m for file in files for m in mutants_of(str(file.relative_to(root)), file.read_text(encoding="utf-8"))]
    random.Random(seed).shuffle(found)
    return found


def judge(mutant: Mutant, copy: Path, tests: list[str], seconds: float) -> tuple[str, float, str]:
    """Plant a fault, run the tests, put the file back.

    Returns:
        "killed", "timeout" (both are noticed), "survived" or "uncovered"; seconds; and the test that noticed.

    Raises:
        RuntimeError: This process has imported what the fault is planted in.
    """
    if not tests:
        return "uncovered", 0.0, ""
    package = Path(mutant.file).parts[0].removesuffix(".py")
    if package in sys.modules:
        raise RuntimeError(f"{package} is imported already: the tests would run on that one, without the fault")
    file, log = copy / mutant.file, copy / "pytest.log"
    source, began = file.read_text(encoding="utf-8"), time.monotonic()
    file.write_text(mutant.planted(source), encoding="utf-8")
    try:
        code = _in_child(lambda: _pytest(copy, tests), log, LEAST_SECONDS + 5.0 * seconds)
    finally:
        file.write_text(source, encoding="utf-8")
    took = time.monotonic() - began
    if code is None:
        return "timeout", took, ""
    if code == 0:
        return "survived", took, ""
    if code == 5:
        raise RuntimeError(f"pytest found none of {tests}")
    said = [line for line in log.read_text(errors="replace").splitlines() if line.startswith(("FAILED", "ERROR"))]
    return "killed", took, said[0][:200] if said else f"exit code {code}"


def _pytest(copy: Path, tests: list[str]) -> int:
    import pytest

    os.chdir(copy)
    sys.path.insert(0, str(copy))
    os.environ["PYTHONPATH"] = str(copy)
    sys.dont_write_bytecode = True
    for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
        del sys.modules[name]
    importlib.invalidate_caches()
    return int(pytest.main(["-x", "-q", "--no-header", "-p", "no:cacheprovider", *tests]))


def _in_child(work: Callable[[], int], log: Path, limit: float) -> int | None:
    """Exit code of some work in a forked process, which has what this one imported; None where it took too long."""
    child = os.fork()
    if not child:
        code = 3
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(limit), math.ceil(limit) + 5))
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            code = work()
        finally:
            os._exit(code)
    until = time.monotonic() + WALL * limit
    code: int | None = None
    try:
        while time.monotonic() < until:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                code = os.waitstatus_to_exitcode(status)
                return None if code == -signal.SIGXCPU else code
            time.sleep(0.05)
        return None
    finally:
        if code is None:  # it takes too long, or this process is told to stop
            with suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)


def known(file: Path) -> dict[str, dict[str, Any]]:
    """Judged mutants by key; a last line that was cut off does not count."""
    found: dict[str, dict[str, Any]] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        with suppress(ValueError):
            values = json.loads(line)
            found[values["key"]] = values
    return found


def work_through(
    mutants: list[Mutant], results: Path, copy: Path, where: CoverageMap, minutes: float, say: Callable[[str], None]
) -> None:
    """Judge what is not judged yet, a JSON line each, until the time is over."""
    for name in where.modules:  # once for all children
        with suppress(BaseException):
            importlib.import_module(name)
    gc.freeze()  # what is here already is never looked through again in a child
    until, done = time.monotonic() + 60 * minutes, known(results)
    for mutant in mutants:
        if mutant.key in done:
            continue
        if time.monotonic() > until:
            return
        tests = where.tests_of(mutant)
        status, seconds, by = judge(mutant, copy, tests, sum(where.tests[name] for name in tests))
        values = {**mutant.values(), "status": status, "seconds": round(seconds, 2), "tests": len(tests), "by": by}
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
        say(
            f"{status:9} {seconds:5.1f} s  {mutant.file}:{mutant.line} {mutant.kind}: {mutant.before!r} -> {mutant.after!r}"
        )


def tally(judged: list[dict[str, Any]]) -> str:
    """A table by file, and the survivors."""
    files: dict[str, Counter[str]] = defaultdict(Counter)
    for values in judged:
        files[values["file"]][values["status"]] += 1
        files["all"][values["status"]] += 1
    kinds = ("killed", "timeout", "survived", "uncovered")
    rows = [f"{'file':52}" + "".join(f"{kind:>11}" for kind in kinds)]
    rows += [f"{file:52}" + "".join(f"{counts[kind]:11}" for kind in kinds) for file, counts in sorted(files.items())]
    for values in judged:
        if values["status"] in ("survived", "uncovered"):
            change = f"{values['before']!r} -> {values['after']!r}"
            rows.append(f"{values['status']}: {values['file']}:{values['line']} {values['kind']}: {change}")
    return "\n".join(rows)


def coverage_table(where: CoverageMap) -> str:
    """Share of the lines that tests run, by folder."""
    folders: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for file, (run, lines) in where.covered.items():
        for name in (str(Path(file).parent), "all"):
            folders[name][0] += run
            folders[name][1] += lines
    return "\n".join(
        f"{name:40} {run:6} of {lines:6} lines {run / lines:7.1%}" for name, (run, lines) in sorted(folders.items())
    )


def main(words: list[str]) -> None:
    """A worker: a process that has not imported the package, whose children import it with the fault in it.

    Args:
        words: The copy, the file of verdicts, the coverage map, and numbers: seed, mutants, worker, workers, minutes.
    """
    root, results, map_file = map(Path, words[:3])
    seed, count, number, workers = map(int, words[3:7])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    mutants = drawn(root, SOURCES, seed)[:count][number::workers]
    with copied(root, compiled=True) as copy:
        where = gathered(map_file, copy, SOURCES, TESTS)
        work_through(mutants, results, copy, where, float(words[7]), lambda line: print(line, flush=True))


if __name__ == "__main__":
    main(sys.argv[1:])
