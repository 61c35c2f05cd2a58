"""What it costs to open the package: importing it, ``--help`` of every command, and the first observation of an environment.

Processor seconds of fresh processes that take turns, as ratios of one run: importing beside `import gymnasium`, ``--help`` beside
importing, the first observation beside importing torch and the part of transformers that the model needs.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from plasticity_env.agents.benchmarks.bench_options import Options

FIRST = (
    "import gymnasium as gym, plasticity_env; gym.make('plasticity/Heads-v1', model_name='bard-gpt2-4x4').reset(seed=0)"
)
NEEDED = "import torch; from transformers import AutoTokenizer, GPT2LMHeadModel, PreTrainedTokenizerFast"


@dataclass(frozen=True)
class StartupRow:
    """One thing that is opened.

    Attributes:
        what: What was started.
        beside: What it is divided by.
        seconds: Processor seconds, median over the rounds, user and system together.
        ratio: Median over the rounds of its seconds over those of ``beside`` in the same round.
        low, high: Smallest and largest of these ratios.
    """

    what: str
    beside: str
    seconds: float
    ratio: float
    low: float
    high: float


def startup_rows(options: Options) -> Iterator[StartupRow]:
    """Rows of ratios; one warm-up round is not counted."""
    helps = {f"plasticity {name} --help": ["-m", "plasticity_env", name, "--help"] for name in _commands()}
    ways = {
        "import gymnasium": ["-c", "import gymnasium"],
        "import plasticity_env": ["-c", "import plasticity_env"],
        **helps,
        "torch and the needed part of transformers": ["-c", NEEDED],
        "first observation": ["-c", FIRST],
    }
    beside = dict.fromkeys(helps, "import plasticity_env")
    beside |= {
        "import plasticity_env": "import gymnasium",
        "first observation": "torch and the needed part of transformers",
    }
    rounds = [{name: _seconds(words) for name, words in ways.items()} for _ in range(options.rounds + 1)][1:]
    for what, other in sorted(beside.items(), key=lambda pair: list(ways).index(pair[0])):
        ratios = [found[what] / found[other] for found in rounds]
        seconds = statistics.median(found[what] for found in rounds)
        yield StartupRow(what, other, seconds, statistics.median(ratios), min(ratios), max(ratios))


def _commands() -> list[str]:
    """Names of the sub-commands, as ``plasticity --help`` lists them."""
    page = subprocess.run(
        [sys.executable, "-m", "plasticity_env", "--help"], check=True, capture_output=True, text=True
    )
    return [line.split()[0] for line in page.stdout.splitlines() if line.startswith("  ")]


def _seconds(words: list[str]) -> float:
    """Processor seconds of a fresh process on one thread."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *words], check=True, capture_output=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
