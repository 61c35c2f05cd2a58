"""Plant small faults in the engine and see whether the tests notice: what survives shows where a test is missing.

python scripts/mutation_run.py --mutants 300 --minutes 90

Works in a temporary copy of the checkout. Verdicts are JSON lines in --folder; the same command goes on where it was cut off.
Needs `coverage` (in the dev extra).
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # each worker has one core
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the tests are no part of the package

from plasticity_env.common import cli  # noqa: E402
from tests.mutation import running  # noqa: E402


@dataclass(frozen=True)
class Arguments:
    """Options of the mutation run."""

    mutants: int = 300
    """How many faults to judge at most."""
    minutes: float = 90.0
    """No new fault is begun after this time."""
    seed: int = 0
    """Decides which faults are drawn."""
    workers: int = 2
    """Processes side by side, each with a copy of the checkout."""
    folder: Path = Path("runs/mutation")
    """Gets `coverage.json` (which test runs which line) and `mutants.jsonl` (the verdicts)."""


def main(arguments: Arguments) -> None:
    """Gather coverage once, judge mutants, print the tally by file and the survivors."""
    arguments.folder.mkdir(parents=True, exist_ok=True)
    results, map_file = arguments.folder / "mutants.jsonl", arguments.folder / "coverage.json"
    with running.copied(ROOT) as copy:  # what happens to the checkout from here on does not matter
        mutants = running.drawn(copy, running.SOURCES, arguments.seed)
        print(f"{len(mutants)} faults are possible, {min(arguments.mutants, len(mutants))} are drawn", flush=True)
        mutants = mutants[: arguments.mutants]
        where = running.gathered(map_file, copy, running.SOURCES, running.TESTS)
        begin = [sys.executable, "-m", "tests.mutation.running", copy, results.absolute(), map_file.absolute()]
        counts = arguments.seed, arguments.mutants
        workers = [
            subprocess.Popen([*map(str, (*begin, *counts, number, arguments.workers, arguments.minutes))], cwd=ROOT)
            for number in range(arguments.workers)
        ]
        try:
            for worker in workers:
                worker.wait()
        finally:
            for worker in workers:
                worker.terminate()
    judged = running.known(results)
    print(running.coverage_table(where))
    print(running.tally([judged[mutant.key] for mutant in mutants if mutant.key in judged]))


if __name__ == "__main__":
    cli.run(Arguments, main)
