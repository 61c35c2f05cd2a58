"""What starting the reward forward at the first changed layer gains, when single heads flip."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from plasticity_env.agents.benchmarks.bench_options import Options, endless
from plasticity_env.common.stopwatch import Clock, ratio, take_turns
from plasticity_env.data.text import TextSplits
from plasticity_env.envs.base import PlasticityEnv
from plasticity_env.model.loading import LoadedModel

_PREFIX_MB = 1024.0


@dataclass(frozen=True)
class PrefixRow:
    """Medians over the rounds; the ratio is the median of each round's ratio, with its range.

    Attributes:
        bench, model, seq_len, sequences, repair: What was measured.
        whole_s: Seconds of the steps whose reward forward is a whole one.
        prefix_s: Seconds of the same steps with prefix reuse.
        whole_over_prefix, whole_over_prefix_range: Their ratio.
        loss_difference: Largest difference of the two ways' reward losses, nats.
        rounds: How many, each of a step a layer.
    """

    bench: str
    model: str
    seq_len: int
    sequences: int
    repair: str
    whole_s: float
    prefix_s: float
    whole_over_prefix: float
    whole_over_prefix_range: tuple[float, float]
    loss_difference: float
    rounds: int


def prefix_rows(options: Options) -> Iterator[PrefixRow]:
    """Every model at every length, without repair and with least squares."""
    for loaded, text in options.loaded():
        for repair in ("none", "least_squares"):
            yield bench_prefix(loaded, options, text, repair)


def bench_prefix(loaded: LoadedModel, options: Options, text: TextSplits, repair: str) -> PrefixRow:
    """Time steps of ``plasticity/Heads-v1`` that flip one head each, once in every layer a round, in random order.

    Args:
        loaded: The model, dense; each way works on a copy.
        options: Tokens in a batch, rounds, clock, device.
        text: Packed at the sequence length to measure.
        repair: Repair of the environment.
    """
    sequences = options.tokens // text.block_size
    walks = {
        way: _Walk(loaded, text, sequences, repair, options.settings.device, megabytes)
        for way, megabytes in (("whole", 0.0), ("prefix", _PREFIX_MB))
    }
    ways: dict[str, Callable[[], object]] = {way: walk.go for way, walk in walks.items()}
    clock: Clock = options.clock
    times = take_turns(ways, options.rounds, walks["whole"].env.workbench.model.device, clock)
    gain, spread = ratio(times["whole"], times["prefix"])
    pairs = zip(walks["whole"].losses, walks["prefix"].losses, strict=True)
    return PrefixRow(
        bench="prefix",
        model=loaded.name,
        seq_len=text.block_size,
        sequences=sequences,
        repair=repair,
        whole_s=statistics.median(times["whole"]),
        prefix_s=statistics.median(times["prefix"]),
        whole_over_prefix=gain,
        whole_over_prefix_range=spread,
        loss_difference=max(abs(whole - prefix) for whole, prefix in pairs),
        rounds=options.rounds,
    )


class _Walk:
    """The same random walk over masks for either way."""

    def __init__(
        self, loaded: LoadedModel, text: TextSplits, sequences: int, repair: str, device: str, megabytes: float
    ) -> None:
        self.env: PlasticityEnv = gym.make(
            "plasticity/Heads-v1",
            disable_env_checker=True,
            loaded=loaded._replace(model=copy.deepcopy(loaded.model)),
            batch_size=sequences,
            repair=repair,
            obs_signal=False,
            residual_signal=False,
            max_sparsity=1.0,
            prefix_mb=megabytes,
            **endless(text, sequences, device),
        ).unwrapped  # type: ignore[assignment]
        self.env.reset(seed=0)
        self.losses: list[float] = []
        self._random = np.random.default_rng(0)

    def go(self) -> None:
        """Flip one head in every layer, one a step."""
        bench = self.env.workbench
        layers, heads = bench.model.shape
        for layer in self._random.permutation(layers):
            actions: Any = np.zeros(self.env.head_slots, dtype=np.int64)
            head = int(self._random.integers(heads))
            actions[layer * heads + head] = 1 if bool(bench.model.active[layer, head]) else 2
            bench.memo.clear()
            self.losses.append(self.env.step(actions)[4]["loss"])
