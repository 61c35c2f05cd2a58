"""What removing heads for real saves in seconds, beside what it saves in FLOPs, and beside torch-pruning.

Heads go by the Fisher score of one calibration pass, lowest first over the whole model, without repair. The dense, the
compacted and the peer's model take turns on the same tokens: one forward without gradients and without a KV cache.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plasticity_env.agents.benchmarks.bench_options import Options
from plasticity_env.agents.benchmarks.bench_peers import PEER, prune_one_head_per_group, why_not
from plasticity_env.common import cli
from plasticity_env.common.errors import InputError
from plasticity_env.common.stopwatch import ratio, take_turns
from plasticity_env.data.text import Split, TextSplits
from plasticity_env.model.flops import flops
from plasticity_env.model.loading import LoadedModel
from plasticity_env.signals.measure import measure

CALIBRATION_TOKENS = 4096
_PASS_TOKENS = 512  # at a time where nothing is timed


@dataclass(frozen=True)
class CompactRow:
    """Seconds are medians over the rounds; ratios are medians of each round's ratio, with their range.

    Attributes:
        bench, model, seq_len, sequences: What was measured: sequences of so many tokens in one forward.
        heads, removed: Heads of the dense model, and how many of them went.
        flops_ratio, time_ratio, time_ratio_range: Compacted / dense.
        time_over_flops: ``time_ratio / flops_ratio``; 1 is a saving as large as the FLOPs promise.
        dense_s, compact_s: Seconds of one forward.
        dense_perplexity, compact_perplexity: Perplexities on the first tokens of the test split.
        peer: Name of the tool that removed equally many heads; None where none was asked for.
        peer_s, peer_flops_ratio, peer_perplexity: Seconds, FLOPs ratio and perplexity of the peer's model.
        compact_over_peer, compact_over_peer_range: Seconds, ours / the peer's.
        rounds: Number of rounds.
    """

    bench: str
    model: str
    seq_len: int
    sequences: int
    heads: int
    removed: int
    flops_ratio: float
    time_ratio: float
    time_ratio_range: tuple[float, float]
    time_over_flops: float
    dense_s: float
    compact_s: float
    dense_perplexity: float
    compact_perplexity: float
    peer: str | None
    peer_s: float | None
    peer_flops_ratio: float | None
    peer_perplexity: float | None
    compact_over_peer: float | None
    compact_over_peer_range: tuple[float, float] | None
    rounds: int


def compact_rows(options: Options) -> Iterator[CompactRow]:
    """Every model at every length: each sparsity against dense, then one head per KV group against torch-pruning.

    Where there is no such row, a line on standard error says why.
    """
    sparsities = cli.numbers(options.sparsities, "sparsities")
    if not sparsities or not all(0 < share < 1 for share in sparsities):
        raise InputError(f"--sparsities {options.sparsities!r} must be shares between 0 and 1, separated by commas")
    for loaded, text in options.loaded():
        order = _least_useful_first(loaded, text)
        for share in sparsities:
            yield bench_compact(loaded, text, order[: round(share * len(order))], options)
        reason = why_not(loaded.model)
        if reason is not None:
            print(f"{loaded.name}, T = {text.block_size}: no row beside {PEER}: {reason}", file=sys.stderr)
        else:
            peer = prune_one_head_per_group(loaded.model, blocks_of(text, "calibration", CALIBRATION_TOKENS))
            removed = order[: loaded.model.kv_heads * loaded.model.shape[0]]
            yield bench_compact(loaded, text, removed, options, PEER, peer)


@torch.no_grad()
def bench_compact(
    loaded: LoadedModel,
    text: TextSplits,
    removed: Tensor,
    options: Options,
    peer: str | None = None,
    peer_model: nn.Module | None = None,
) -> CompactRow:
    """Time a model with some heads removed against the dense one.

    Args:
        loaded: The model, dense; left so.
        text: Its text, packed at the sequence length to measure.
        removed: (n,) flat indices of the heads to remove.
        options: Tokens in a forward, rounds.
        peer: Name of who else removed as many heads.
        peer_model: The model that the other tool pruned.
    """
    model, length = loaded.model, text.block_size
    mask = torch.zeros(model.shape, dtype=torch.bool)
    mask.view(-1)[removed] = True
    model.prune(mask)
    compacted = model.compact().eval()
    model.revive(mask)
    ids = blocks_of(text, "calibration", options.tokens).to(model.device)
    test = blocks_of(text, "test", options.test_tokens).to(model.device)
    models: dict[str, Any] = {"dense": model.model, "compact": compacted}
    if peer_model is not None:
        models["peer"] = peer_model
    ways = {name: lambda each=each: each(input_ids=ids, use_cache=False) for name, each in models.items()}
    times = take_turns(ways, options.rounds, model.device, options.clock)
    cost = {name: flops(each, length) for name, each in models.items() if name != "peer"}
    time_ratio, time_range = ratio(times["compact"], times["dense"])
    flops_ratio = cost["compact"] / cost["dense"]
    beside = ratio(times["compact"], times["peer"]) if "peer" in times else (None, None)
    return CompactRow(
        bench="compact",
        model=loaded.name,
        seq_len=length,
        sequences=len(ids),
        heads=mask.numel(),
        removed=len(removed),
        flops_ratio=flops_ratio,
        time_ratio=time_ratio,
        time_ratio_range=time_range,
        time_over_flops=time_ratio / flops_ratio,
        dense_s=statistics.median(times["dense"]),
        compact_s=statistics.median(times["compact"]),
        dense_perplexity=_perplexity(model.model, test),
        compact_perplexity=_perplexity(compacted, test),
        peer=peer,
        peer_s=statistics.median(times["peer"]) if "peer" in times else None,
        peer_flops_ratio=None if peer_model is None else flops(peer_model, length) / cost["dense"],
        peer_perplexity=None if peer_model is None else _perplexity(peer_model, test),
        compact_over_peer=beside[0],
        compact_over_peer_range=beside[1],
        rounds=options.rounds,
    )


def _least_useful_first(loaded: LoadedModel, text: TextSplits) -> Tensor:
    """Flat indices of all heads by ascending Fisher score."""
    ids = blocks_of(text, "calibration", CALIBRATION_TOKENS)
    sequences = max(1, _PASS_TOKENS // text.block_size)
    return measure(loaded.model, ids, batch_size=sequences, obs=False).fisher.flatten().argsort()


def blocks_of(text: TextSplits, split: Split, tokens: int) -> Tensor:
    """The first blocks of a split, (n, T), about so many tokens."""
    return text.blocks(split)[: max(1, tokens // text.block_size)]


def _perplexity(model: Any, ids: Tensor) -> float:
    losses = []
    for some in ids.split(max(1, _PASS_TOKENS // ids.shape[1])):
        logits = model(input_ids=some, use_cache=False).logits[:, :-1].float()
        losses.append(F.cross_entropy(logits.flatten(0, 1), some[:, 1:].flatten(), reduction="none"))
    return float(torch.cat(losses).double().mean().exp())
