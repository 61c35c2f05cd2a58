"""Peak memory and time of exact attention entropy, beside plain attention and beside the naive T x T way.

One head layer of random queries, keys and values. Each way runs in a fresh process, so that its peak is its own: on the CPU the
high-water mark of the resident memory after it is reset (Linux), on CUDA the allocator's peak.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from plasticity_env.agents.benchmarks.bench_options import Options
from plasticity_env.common.child_processes import worker_pool
from plasticity_env.common.errors import InputError
from plasticity_env.model.loading import check_device
from plasticity_env.signals.attention_entropy import attend_with_entropy, choose_kernel

HEADS, WIDTH = 9, 64  # of SmolLM2-135M
WAYS = ("plain", "entropy", "naive")


@dataclass(frozen=True)
class EntropyRow:
    """Medians over rounds, each round a process of its own.

    Attributes:
        bench, seq_len, heads, head_dim: What was measured, one sequence.
        plain_mib, entropy_mib, naive_mib: Peak memory above queries, keys and values.
        extra_over_naive: (entropy - plain) / naive peak; the goal at T = 4096 is below 0.1.
        plain_s, entropy_s, naive_s: Seconds.
        entropy_over_plain, naive_over_entropy: Ratios of them.
        rounds: Number of rounds.
    """

    bench: str
    seq_len: int
    heads: int
    head_dim: int
    plain_mib: float
    entropy_mib: float
    naive_mib: float
    extra_over_naive: float
    plain_s: float
    entropy_s: float
    naive_s: float
    entropy_over_plain: float
    naive_over_entropy: float
    rounds: int


def entropy_rows(options: Options) -> Iterator[EntropyRow]:
    """A row for each length.

    Raises:
        InputError: If peak memory cannot be read on this system.
    """
    lengths = options.check()
    if check_device(options.settings.device).type == "cpu" and not Path("/proc/self/clear_refs").exists():
        raise InputError("peak memory on the CPU is read from /proc, which this system lacks: use --device cuda")
    for length in lengths:
        found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        for _ in range(options.rounds):
            for way in WAYS:
                with worker_pool(1) as pool:
                    found[way].append(pool.submit(_measured, way, length, options.settings.device).result())
        memory = {way: statistics.median(m for m, _ in pairs) for way, pairs in found.items()}
        seconds = {way: statistics.median(s for _, s in pairs) for way, pairs in found.items()}
        yield EntropyRow(
            bench="entropy",
            seq_len=length,
            heads=HEADS,
            head_dim=WIDTH,
            plain_mib=memory["plain"],
            entropy_mib=memory["entropy"],
            naive_mib=memory["naive"],
            extra_over_naive=(memory["entropy"] - memory["plain"]) / memory["naive"],
            plain_s=seconds["plain"],
            entropy_s=seconds["entropy"],
            naive_s=seconds["naive"],
            entropy_over_plain=seconds["entropy"] / seconds["plain"],
            naive_over_entropy=seconds["naive"] / seconds["entropy"],
            rounds=options.rounds,
        )


@torch.no_grad()
def _measured(way: str, length: int, device: str) -> tuple[float, float]:
    """(MiB above the inputs at the peak, seconds) of one way, in this process."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, HEADS, length, WIDTH, generator=generator).to(device) for _ in range(3))
    _attend(way, query[:, :, :64], key[:, :, :64], value[:, :, :64])  # kernels loaded, threads started
    cuda = query.device.type == "cuda"
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = float(torch.cuda.memory_allocated())
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark starts anew
        before = resident("VmRSS")
    started = time.perf_counter()
    kept = _attend(way, query, key, value)
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    peak = float(torch.cuda.max_memory_allocated()) if cuda else resident("VmHWM")
    del kept
    return (peak - before) / 2**20, seconds


def _attend(way: str, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
    scale = WIDTH**-0.5
    if way == "plain":
        return (F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale),)
    if way == "entropy":
        return attend_with_entropy(query, key, value, None, scale, choose_kernel(query, None))
    tokens = query.shape[2]
    hidden = torch.ones(tokens, tokens, dtype=torch.bool, device=query.device).triu(1)
    weights = ((query @ key.transpose(-1, -2)) * scale).masked_fill(hidden, -torch.inf).softmax(-1)
    return weights @ value, -torch.special.xlogy(weights, weights).sum(-1)


def resident(name: str) -> float:
    """Bytes of this process's memory by their name in Linux's status file: VmRSS now, VmHWM at its peak."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024.0 * int(next(line for line in lines if line.startswith(name)).split()[1])
