"""What a structure of a bank costs: memory beside the weights, switching to it, and seconds masked and compacted."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import torch

from plasticity_env.agents.benchmarks.bench_options import Options
from plasticity_env.common import cli
from plasticity_env.common.stopwatch import ratio, take_turns
from plasticity_env.data.text import TextSplits
from plasticity_env.dynamic.fitting import build_bank
from plasticity_env.dynamic.route_table import static_losses
from plasticity_env.dynamic.token_routes import TokenRoutes
from plasticity_env.model.loading import LoadedModel

BLOCKS = 4  # that a structure is fitted on: seconds do not depend on them
SWITCHES = 20


@dataclass(frozen=True)
class DynamicRow:
    """One structure beside the dense model; seconds and ratios are medians of rounds that take turns, with their range.

    Attributes:
        bench, model, seq_len, share: What was measured: a structure that prunes this share of the heads.
        size_share: Numbers that it holds over the model's parameters.
        switch_ms: Milliseconds until another structure of the bank is in place.
        flops_ratio: Its FLOPs over the dense model's.
        masked_ratio, masked_range: Seconds of a forward through the shared weights over the dense model's.
        compact_ratio, compact_range: The same of the compacted model.
        compact_over_flops: ``compact_ratio / flops_ratio``; 1 is a saving as large as the FLOPs promise.
        decode_ratio, decode_range: Seconds of 16 tokens one by one after a short prompt, compacted over dense.
    """

    bench: str
    model: str
    seq_len: int
    share: float
    size_share: float
    switch_ms: float
    flops_ratio: float
    masked_ratio: float
    masked_range: tuple[float, float]
    compact_ratio: float
    compact_range: tuple[float, float]
    compact_over_flops: float
    decode_ratio: float
    decode_range: tuple[float, float]


def dynamic_rows(options: Options) -> Iterator[DynamicRow]:
    """Every model at every length and share."""
    for loaded, text in options.loaded():
        for share in cli.numbers(options.sparsities, "sparsities"):
            yield bench_structure(loaded, text, share, options)


@torch.no_grad()
def bench_structure(loaded: LoadedModel, text: TextSplits, share: float, options: Options) -> DynamicRow:
    """Fit two structures and time the first."""
    model, blocks = loaded.model, text.blocks("calibration")
    halves = {"first": blocks[:BLOCKS], "second": blocks[BLOCKS : 2 * BLOCKS]}
    with torch.enable_grad():
        bank = build_bank(model, halves, (share,), mixture=False, prefix_tokens=2)
    ids = text.some("test", options.tokens // text.block_size).to(model.device)
    small, stock, prompt = bank.compacted(1), model.model, ids[:1, :16]
    generation: dict[str, Any] = {"max_new_tokens": 16, "min_new_tokens": 16, "do_sample": False, "pad_token_id": 0}
    times = take_turns(
        {
            "dense": lambda: stock(input_ids=ids, use_cache=False),
            "masked": lambda: static_losses(bank, ids, 1, 1, len(ids)),
            "dense again": lambda: static_losses(bank, ids, 0, 1, len(ids)),
            "compact": lambda: small(input_ids=ids, use_cache=False),
            "dense, one by one": lambda: stock.generate(prompt, **generation),  # type: ignore[operator]
            "compact, one by one": lambda: small.generate(prompt, **generation),  # type: ignore[operator]
        },
        options.rounds,
        model.device,
        options.clock,
    )
    costs = bank.flops(text.block_size)
    flops_ratio = float(costs[1] / costs[0])
    masked, masked_range = ratio(times["masked"], times["dense again"])
    compact, compact_range = ratio(times["compact"], times["dense"])
    decode, decode_range = ratio(times["compact, one by one"], times["dense, one by one"])
    return DynamicRow(
        bench="dynamic",
        model=loaded.name,
        seq_len=text.block_size,
        share=share,
        size_share=bank.size_share(1),
        switch_ms=1e3 * statistics.median(_switches(TokenRoutes(model, list(bank)))),
        flops_ratio=flops_ratio,
        masked_ratio=masked,
        masked_range=masked_range,
        compact_ratio=compact,
        compact_range=compact_range,
        compact_over_flops=compact / flops_ratio,
        decode_ratio=decode,
        decode_range=decode_range,
    )


def _switches(routes: TokenRoutes) -> list[float]:
    """Seconds from one structure to the other, the hooks of all sites taken off and put on again."""
    found = []
    for _, number in zip(range(SWITCHES), cycle((1, 2)), strict=False):
        everywhere = torch.full((1, 1), number)
        started = time.perf_counter()
        with routes.along(everywhere.expand_as):
            found.append(time.perf_counter() - started)
    return found
