"""``plasticity benchmark``: time things side by side, and print one JSON line per row on standard output."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import asdict, dataclass

import tyro

from plasticity_env.agents.benchmarks.bench_options import Options
from plasticity_env.agents.commands.command import Command
from plasticity_env.common import cli
from plasticity_env.common.errors import unknown

_OURS = "plasticity_env.agents.benchmarks"
BENCHES = {  # name -> function that yields rows (dataclasses), from the arguments
    "step": f"{_OURS}.bench_step:step_rows",
    "entropy": f"{_OURS}.bench_entropy:entropy_rows",
    "compact": f"{_OURS}.bench_compact:compact_rows",
    "decode": f"{_OURS}.bench_decode:decode_rows",
    "repair": f"{_OURS}.bench_repair:repair_rows",
    "prefix": f"{_OURS}.bench_prefix:prefix_rows",
    "vector": f"{_OURS}.bench_vector:vector_rows",
    "engines": f"{_OURS}.bench_engines:engine_rows",
    "dynamic": f"{_OURS}.bench_dynamic:dynamic_rows",
    "price": f"{_OURS}.bench_price:price_rows",
    "route": f"{_OURS}.bench_route:route_rows",
    "startup": f"{_OURS}.bench_startup:startup_rows",
}


@dataclass(frozen=True)
class BenchmarkConfig(Options):
    """Arguments of the benchmarks."""

    bench: tyro.conf.Positional[str] = "step"
    """what to measure: step = env.step() beside its floor and the naive way, vector = steps per second of N environments in one
    batch beside N single ones, engines = what a sample costs in one environment, in one per process, in the native batch and with
    Ray, compact = a model from which heads are removed beside the dense one and torch-pruning's,
    decode = what such a model saves while it generates: prefill, tokens a second, bytes of the KV cache,
    repair = what each repair costs and saves, prefix = steps that flip one head, with and without starting the reward forward
    at the first changed layer, entropy = peak memory and time of exact entropy beside plain attention and the
    T x T way (no model; give --lengths, --tokens 4096), price = what pricing every unit once costs (give --models),
    dynamic = what a structure of a bank costs in memory, switching and seconds,
    route = decisions per second of Route-v0 in one batch, and what it adds to the time of an SB3 PPO run,
    startup = what importing, --help and the first observation cost"""


def main(config: BenchmarkConfig) -> None:
    """Time things side by side in one run, and print the ratios."""
    if config.bench not in BENCHES:
        raise unknown("benchmark", config.bench, BENCHES)
    config.check()
    module, _, name = BENCHES[config.bench].partition(":")
    rows = getattr(importlib.import_module(module), name)
    if config.clock == "cpu":
        import torch

        torch.set_num_threads(1)
    for number, row in enumerate(rows(config)):
        if number == 0:
            print(cli.machine(), file=sys.stderr)
        print(json.dumps(asdict(row)), flush=True)


COMMAND = Command("benchmark", BenchmarkConfig, main)
