"""Plant small faults in the engine and see whether the tests notice: what survives shows where a test is missing.

python scripts/mutation_run.py --mutants 300 --minutes 90

Works in a temporary copy of the checkout. Verdicts are JSON lines in --folder; the same command goes on where it was cut off.
Needs `coverage` (in the dev extra).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # each worker has one core
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the tests are no part of the package

from plasticity_env.common import cli  # noqa: E402
from tests.mutation import running  # noqa: E402
from tests.mutation.mutants import Mutant  # noqa: E402


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
    context = multiprocessing.get_context("spawn")
    with running.copied(ROOT) as copy:  # what happens to the checkout from here on does not matter
        mutants = running.drawn(copy, running.SOURCES, arguments.seed)
        print(f"{len(mutants)} faults are possible, {min(arguments.mutants, len(mutants))} are drawn", flush=True)
        mutants = mutants[: arguments.mutants]
        where = running.gathered(map_file, copy, running.SOURCES, running.TESTS)
        files = results.absolute(), map_file.absolute()
        workers = [
            context.Process(
                target=work, daemon=True, args=(mutants[number :: arguments.workers], copy, *files, arguments.minutes)
            )
            for number in range(arguments.workers)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    judged = running.known(results)
    print(running.coverage_table(where))
    print(running.tally([judged[mutant.key] for mutant in mutants if mutant.key in judged]))


def work(mutants: list[Mutant], root: Path, results: Path, map_file: Path, minutes: float) -> None:
    """One worker's share, in a copy of its own, which goes with it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with running.copied(root, compiled=True) as copy:
        where = running.gathered(map_file, copy, running.SOURCES, running.TESTS)
        running.work_through(mutants, results, copy, where, minutes, lambda line: print(line, flush=True))


if __name__ == "__main__":
    cli.run(Arguments, main)
