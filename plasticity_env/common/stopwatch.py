"""Seconds of things that run side by side, so that a machine whose speed drifts treats them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Clock = Literal["wall", "cpu"]
CLOCKS: dict[Clock, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


def timed(way: Callable[[], object], device: torch.device, clock: Clock = "wall") -> float:
    """Seconds of one call, the device's queue waited for.

    Args:
        way: What is timed.
        device: Device whose queue is waited for.
        clock: "wall", or "cpu" for the processor seconds of this process (all its threads), which other work on the
            machine does not lengthen.
    """
    _wait_for(device)
    started = CLOCKS[clock]()
    way()
    _wait_for(device)
    return CLOCKS[clock]() - started


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def take_turns(
    ways: Mapping[str, Callable[[], object]], rounds: int, device: torch.device, clock: Clock = "wall"
) -> dict[str, list[float]]:
    """Seconds of each way in each round: the ways alternate.

    Args:
        ways: Name to what is timed.
        rounds: Rounds after one that does not count.
        device: Device whose queue is waited for.
        clock: See `timed`.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            seconds = timed(way, device, clock)
            if turn > 0:
                times[name].append(seconds)
    return times


def ratio(above: list[float], below: list[float]) -> tuple[float, tuple[float, float]]:
    """Median of the rounds' ratios, and (smallest, largest)."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return statistics.median(ratios), (min(ratios), max(ratios))
