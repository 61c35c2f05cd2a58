"""Benchmarks that print ratios of things run side by side, one JSON line a row on standard output.

python scripts/benchmark.py step --models bard-gpt2-6x8,path/to/SmolLM2.gguf --lengths 256,1024
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
import tyro

from plasticity_env.agents.benchmarks.bench_compact import compact_rows
from plasticity_env.agents.benchmarks.bench_engines import engine_rows
from plasticity_env.agents.benchmarks.bench_entropy import entropy_rows
from plasticity_env.agents.benchmarks.bench_options import Options
from plasticity_env.agents.benchmarks.bench_prefix import prefix_rows
from plasticity_env.agents.benchmarks.bench_repair import repair_rows
from plasticity_env.agents.benchmarks.bench_step import step_rows
from plasticity_env.agents.benchmarks.bench_vector import vector_rows
from plasticity_env.common import cli
from plasticity_env.common.errors import unknown

BENCHES: dict[str, Callable[[Any], Iterator[Any]]] = {  # name -> rows (dataclasses), from the arguments
    "step": step_rows,
    "entropy": entropy_rows,
    "compact": compact_rows,
    "repair": repair_rows,
    "prefix": prefix_rows,
    "vector": vector_rows,
    "engines": engine_rows,
}


@dataclass(frozen=True)
class Config(Options):
    """Arguments of the benchmarks."""

    bench: tyro.conf.Positional[str] = "step"
    """what to measure: step = env.step() beside its floor and the naive way, vector = steps a second of N environments in one
    batch beside N by themselves, engines = what a sample costs in one environment, one a process, the native batch and with
    Ray, compact = a model with heads removed for real beside the dense one and torch-pruning's,
    repair = what each repair costs and saves, prefix = steps that flip one head, with and without starting the reward forward
    at the first changed layer, entropy = peak memory and time of exact entropy beside plain attention and the
    T x T way (no model; give --lengths, --tokens 4096)"""


def main(config: Config) -> None:
    """Time things side by side in one run, and print the ratios."""
    if config.bench not in BENCHES:
        raise unknown("benchmark", config.bench, BENCHES)
    config.check()
    if config.clock == "cpu":
        torch.set_num_threads(1)
    for number, row in enumerate(BENCHES[config.bench](config)):
        if number == 0:
            print(cli.machine(), file=sys.stderr)
        print(json.dumps(asdict(row)), flush=True)


if __name__ == "__main__":
    cli.run(Config, main)
