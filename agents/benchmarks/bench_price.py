"""What it costs to price every unit once: cross-fitted on one text, or fitted on blocks of its own, at equal text and with more.

A measuring pass of the environment on the dense model: moments, projectors, a forward and a backward, elimination. Each way runs
in a process of its own, on one thread, so that its peak memory is its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any

import torch

from plasticity_env.agents.benchmarks.bench_entropy import resident
from plasticity_env.agents.benchmarks.bench_options import Options, whole_numbers
from plasticity_env.common import cli
from plasticity_env.common.child_processes import worker_pool
from plasticity_env.common.errors import InputError

# name: (blocks that score, blocks beside them that are fitted on), as shares of the text
WAYS = {"crossfit": (1.0, 0.0), "apart": (0.5, 0.5), "apart, five times the text": (1.0, 4.0)}
PARTS = {
    "moments": ("plasticity_env.signals.dense_moments", "gather_many"),
    "projectors": ("plasticity_env.envs.site_solver", "residual_projector"),
    "elimination": ("plasticity_env.signals.slopes", "eliminate"),
}


@dataclass(frozen=True)
class PriceRow:
    """One way on one model; seconds are processor seconds of one thread.

    Attributes:
        bench, model, seq_len, mlp_blocks: What was measured; 0 MLP blocks: heads alone are units.
        way: "crossfit" fits on each half of the text for the other one; "apart" fits on blocks of its own.
        calibration_blocks, moment_blocks: Number of blocks that were read.
        seconds: Seconds that the pass took.
        over_crossfit: Ratio to the first way's.
        shares: Share of the seconds by part; the rest is forward and backward.
        peak_mib: Peak memory above that of the loaded model.
    """

    bench: str
    model: str
    seq_len: int
    mlp_blocks: int
    way: str
    calibration_blocks: int
    moment_blocks: int
    seconds: float
    over_crossfit: float
    shares: dict[str, float]
    peak_mib: float


def price_rows(options: Options) -> Iterator[PriceRow]:
    """Rows of every model, length and number of MLP blocks.

    Raises:
        InputError: No models, or a system whose peak memory cannot be read.
    """
    if not Path("/proc/self/clear_refs").exists():
        raise InputError("peak memory is read from /proc, which this system lacks")
    lengths, numbers = options.check(), whole_numbers(options.mlp_blocks, "mlp_blocks", 0)
    models = cli.words(options.models)
    if not models:
        raise InputError("--models is empty: name the models to price, separated by commas")
    for model in models:
        for length in lengths:
            for count in numbers:
                first = 0.0
                for way, (scored, fitted) in WAYS.items():
                    blocks = options.tokens // length
                    settings = replace(
                        options.settings,
                        model_name=model,
                        device="cpu",
                        max_length=length,
                        units="heads+mlp" if count else "heads",
                        mlp_blocks=count or 1,
                        calibration_blocks=max(1, round(scored * blocks)),
                        moment_blocks=round(fitted * blocks),
                        reward_blocks=1,
                        batch_size=4,
                    )
                    with worker_pool(1) as pool:
                        seconds, parts, peak = pool.submit(price_once, settings.kwargs()).result()
                    first = first or seconds
                    yield PriceRow(
                        "price",
                        model,
                        length,
                        count,
                        way,
                        settings.calibration_blocks,
                        settings.moment_blocks,
                        seconds,
                        seconds / first,
                        {name: part / seconds for name, part in parts.items()},
                        peak,
                    )


def price_once(settings: dict[str, Any]) -> tuple[float, dict[str, float], float]:
    """Measure the dense model once; returns seconds, seconds of each part, and the peak in MiB."""
    import importlib

    from plasticity_env.envs.head_rank import HeadRankEnv

    torch.set_num_threads(1)
    env = HeadRankEnv(version=1, pruned_share=0.5, **settings)
    parts = dict.fromkeys(PARTS, 0.0)
    for name, (module, function) in PARTS.items():
        place = importlib.import_module(module)
        setattr(place, function, _watched(getattr(place, function), parts, name))
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark starts anew
    before, started = resident("VmRSS"), time.process_time()
    env.reset(seed=0)
    seconds = time.process_time() - started
    return seconds, parts, (resident("VmHWM") - before) / 2**20


def _watched(function: Callable[..., Any], parts: dict[str, float], name: str) -> Callable[..., Any]:
    @wraps(function)
    def watched(*args: Any, **kwargs: Any) -> Any:
        started = time.process_time()
        try:
            return function(*args, **kwargs)
        finally:
            parts[name] += time.process_time() - started

    return watched
