"""Play the environments in any order of calls until so many were made, check after each what must hold, print a tally.

python scripts/machine_run.py --steps 10000 --seed 1

A failure prints the shortest program that leads to it. The machine is tests/plasticity_env/envs/machine.py.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the tests are no part of the package

from plasticity_env.common import cli
from plasticity_env.common.errors import check_least
from tests.plasticity_env.envs.machine import run


@dataclass(frozen=True)
class Arguments:
    """Options of the run."""

    steps: int = 10_000
    """How many calls to make; each of them is followed by all checks."""
    seed: int = 0
    """Decides everything that is drawn."""


def main(arguments: Arguments) -> None:
    """Run the state machine, then say how often each thing was done."""
    check_least("--steps", arguments.steps, 1)
    tally = run(arguments.steps, arguments.seed)
    for name, count in tally.most_common():
        print(f"{count:7}  {name}")
    print(f"{tally['steps']} steps, none of which broke anything")


if __name__ == "__main__":
    cli.run(Arguments, main)
