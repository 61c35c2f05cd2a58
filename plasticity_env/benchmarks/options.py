"""What the benchmarks share: their arguments, and stopwatches that treat all ways alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch

from plasticity_env import cli
from plasticity_env.errors import InputError
from plasticity_env.loading import LoadedModel, embedded_models, load_model
from plasticity_env.text import TextSplits, load_text


@dataclass(frozen=True)
class Options:
    """Arguments that every benchmark reads; one that has no use for an argument ignores it."""

    models: str = ""
    """models, separated by commas; unset: all embedded ones"""
    lengths: str = "256"
    """tokens a sequence, separated by commas"""
    tokens: int = 2048
    """tokens in a batch"""
    dataset: str = "shakespeare"
    """text: shakespeare, a path, or a hub data set"""
    sparsities: str = "0.3,0.5"
    """shares of heads to remove, separated by commas (compact)"""
    rounds: int = 7
    """counted rounds"""
    device: str = "cpu"
    """cpu, cuda, ..."""

    def check(self) -> list[int]:
        """The lengths as numbers.

        Raises:
            InputError: No length, no round, or a batch shorter than one sequence.
        """
        lengths = [int(length) for length in cli.numbers(self.lengths, "lengths")]
        if not lengths:
            raise InputError("--lengths is empty: give at least one number of tokens")
        if self.rounds < 1 or any(self.tokens < length for length in lengths):
            raise InputError(f"rounds must be at least 1 and tokens ({self.tokens}) at least the longest of {lengths}")
        return lengths

    def loaded(self) -> Iterator[tuple[LoadedModel, TextSplits]]:
        """Every model with its text packed at every length."""
        lengths = self.check()
        for name in cli.words(self.models) or embedded_models():
            loaded = load_model(name, device=self.device)
            for length in lengths:
                yield loaded, load_text(self.dataset, loaded.tokenizer, block_size=length)


def timed(way: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, the device's queue waited for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    way()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def take_turns(ways: Mapping[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each way in each round: the ways alternate, so that a machine whose speed drifts treats them alike.

    Args:
        ways: Name to what is timed.
        rounds: Rounds after one that does not count.
        device: Whose queue is waited for.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            seconds = timed(way, device)
            if turn > 0:
                times[name].append(seconds)
    return times


def ratio(above: list[float], below: list[float]) -> tuple[float, tuple[float, float]]:
    """Median of the rounds' ratios, and (smallest, largest)."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return statistics.median(ratios), (min(ratios), max(ratios))
