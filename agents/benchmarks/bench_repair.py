"""What each repair costs, in measuring passes of the same text, and what it saves, in nats on text it never saw.

Heads go by the Fisher score of one calibration pass, lowest first over the whole model. ``statistics`` is the forward that
gathers second moments; ``incremental`` is the parallel least-squares repair of a step that changes two layers only.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from plasticity_env.agents.benchmarks.bench_options import Options
from plasticity_env.common import cli
from plasticity_env.common.errors import InputError
from plasticity_env.common.stopwatch import ratio, take_turns
from plasticity_env.data.text import TextSplits
from plasticity_env.model.loading import LoadedModel
from plasticity_env.repair import METHODS, REPAIRS, find_repair, repair_in_order, repair_sites
from plasticity_env.signals.measure import gather, mean_loss, measure

_TEST_BLOCKS = 16


@dataclass(frozen=True)
class RepairRow:
    """Seconds are medians over the rounds; the ratio is the median of each round's ratio, with its range.

    Attributes:
        bench, model, seq_len, tokens: What was measured: calibration tokens.
        heads, removed: Heads of the dense model, and how many of them are pruned.
        repair: Name of the repair; ``statistics`` and ``incremental`` are parts of a repair.
        seconds: Seconds of the repair, the statistics excluded.
        pass_s: Seconds of one measuring pass (signals of all heads, no OBS) over the same tokens.
        over_pass, over_pass_range: Ratio of the two.
        delta_nll: Rise of the loss over the dense model's on the first test blocks, nats per token; None for parts.
        rounds: Number of rounds.
    """

    bench: str
    model: str
    seq_len: int
    tokens: int
    heads: int
    removed: int
    repair: str
    seconds: float
    pass_s: float
    over_pass: float
    over_pass_range: tuple[float, float]
    delta_nll: float | None
    rounds: int


def repair_rows(options: Options) -> Iterator[RepairRow]:
    """Rows of every model, length and share."""
    sparsities = cli.numbers(options.sparsities, "sparsities")
    if not sparsities or any(not 0 < share < 1 for share in sparsities):
        raise InputError(f"--sparsities {options.sparsities!r} must be shares between 0 and 1, separated by commas")
    for loaded, text in options.loaded():
        for share in sparsities:
            yield from bench_repair(loaded, text, share, options)


def bench_repair(loaded: LoadedModel, text: TextSplits, share: float, options: Options) -> Iterator[RepairRow]:
    """Time every repair of a model against a measuring pass, and score it.

    Args:
        loaded: The model, dense; left so.
        text: Its text.
        share: Share of all heads, to prune.
        options: Calibration tokens, rounds.

    Raises:
        InputError: Fewer calibration blocks in the text than asked for.
    """
    model, length = loaded.model, text.block_size
    count = max(1, options.tokens // length)
    if count > len(text.blocks("calibration")):
        raise InputError(f"--tokens {options.tokens} is more than the calibration split of {text.name!r} holds")
    ids, test = text.blocks("calibration")[:count], text.blocks("test")[:_TEST_BLOCKS]
    signals = measure(model, ids, obs=False, statistics=True)
    assert signals.statistics is not None
    found, dense = signals.statistics, mean_loss(model, test)
    active = torch.ones(model.shape, dtype=torch.bool)
    active.view(-1)[signals.fisher.flatten().argsort()[: round(share * active.numel())]] = False
    touched = [site for site in found.sites if not bool(model.sites[site].kept_inputs(active).all())]

    def repair(name: str) -> None:
        way = find_repair(name)
        if way.sequential:
            repair_in_order(model, ids, mlp=way.mlp, weighted=way.weighted)
        elif way.method in METHODS:
            repair_sites(model, way.method, found)

    def run(name: str) -> Callable[[], None]:
        return lambda: repair(name)

    ways: dict[str, Callable[[], object]] = {"pass": lambda: measure(model, ids, obs=False)}
    ways["statistics"] = lambda: gather(model, ids)
    ways |= {name: run(name) for name in REPAIRS if name != "none"}
    ways["incremental"] = lambda: repair_sites(model, "least_squares", found, touched[:2])
    losses: dict[str, float] = {}
    try:
        model.set_active(active)
        for name in REPAIRS:
            model.undo_repair()
            repair(name)
            losses[name] = mean_loss(model, test)
        times = take_turns(ways, options.rounds, model.device, options.clock)
    finally:
        model.undo_repair()
        model.set_active(torch.ones_like(active))
    times["none"] = [0.0] * options.rounds
    for name in ("statistics", *REPAIRS, "incremental"):
        over, span = ratio(times[name], times["pass"])
        yield RepairRow(
            bench="repair",
            model=loaded.name,
            seq_len=length,
            tokens=ids.numel(),
            heads=active.numel(),
            removed=int((~active).sum()),
            repair=name,
            seconds=statistics.median(times[name]),
            pass_s=statistics.median(times["pass"]),
            over_pass=over,
            over_pass_range=span,
            delta_nll=losses[name] - dense if name in losses else None,
            rounds=options.rounds,
        )
