"""Benchmarks that print ratios of things run side by side, one JSON line a row on standard output.

python scripts/benchmark.py step --models bard-gpt2-6x8,path/to/SmolLM2.gguf --lengths 256,1024
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from typing import Literal

import tyro

from plasticity_env import cli
from plasticity_env.benchmarks.step import bench_step
from plasticity_env.errors import InputError
from plasticity_env.loading import embedded_models, load_model
from plasticity_env.text import load_text


@dataclass(frozen=True)
class Config:
    """Arguments of the benchmark."""

    bench: tyro.conf.Positional[Literal["step"]] = "step"
    """what to measure: step = env.step() beside its floor and the naive way"""
    models: str = ""
    """models, separated by commas; unset: all embedded ones"""
    lengths: str = "256"
    """tokens a sequence, separated by commas"""
    tokens: int = 2048
    """tokens in the calibration and in the reward batch each, run as one batch"""
    dataset: str = "shakespeare"
    """text: shakespeare, a path, or a hub data set"""
    rounds: int = 7
    """counted rounds"""
    device: str = "cpu"
    """cpu, cuda, ..."""


def main(config: Config) -> None:
    """Time environment steps against their floor and against the naive way, in one run."""
    lengths = [int(length) for length in cli.numbers(config.lengths, "lengths")]
    if not lengths:
        raise InputError("--lengths is empty: give at least one number of tokens")
    if config.rounds < 1 or any(config.tokens < length for length in lengths):
        raise InputError(f"rounds must be at least 1 and tokens ({config.tokens}) at least the longest of {lengths}")
    print(cli.machine(), file=sys.stderr)
    for name in cli.words(config.models) or embedded_models():
        loaded = load_model(name, device=config.device)
        for length in lengths:
            text = load_text(config.dataset, loaded.tokenizer, block_size=length)
            for repair, obs in (("none", False), ("least_squares", True)):
                row = bench_step(
                    loaded,
                    text,
                    sequences=config.tokens // length,
                    repair=repair,
                    obs=obs,
                    naive=repair == "none",
                    rounds=config.rounds,
                    device=config.device,
                )
                print(json.dumps(asdict(row)), flush=True)


if __name__ == "__main__":
    cli.run(Config, main)
