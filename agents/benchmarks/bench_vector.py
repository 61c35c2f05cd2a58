"""Steps a second of the native vector environment, beside single environments and Gymnasium's vector environments.

Every way steps N environments of ``plasticity/Heads-v1`` with masks of its own that were not measured before, so that no memo
knows an answer; the ways take turns, so that a machine whose speed drifts treats them alike.
"""

from __future__ import annotations

import functools
import itertools
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from plasticity_env.agents.benchmarks.bench_options import Options, endless, start_method, whole_numbers
from plasticity_env.common import cli
from plasticity_env.common.child_processes import deaths_named
from plasticity_env.common.stopwatch import ratio, take_turns
from plasticity_env.data.text import TextSplits
from plasticity_env.model.embedded import embedded_models
from plasticity_env.model.loading import check_device, load_model

_PRUNED = 0.25  # share of units that a mask prunes, on average


@dataclass(frozen=True)
class VectorRow:
    """Medians over the rounds; ratios are medians of each round's ratio, with their range.

    Attributes:
        bench, model, num_envs, seq_len, sequences: What was measured: sequences in the calibration and in the reward batch
            of each environment.
        repair, scores: Repair, and whether OBS and residual scores are measured.
        memory_share: Share of the model's bytes that an environment of the vector environment may add.
        vector_steps, single_steps, sync_steps, async_steps: Environment steps a second; async is Gymnasium's, one process
            an environment, None where it was left out.
        over_single, over_sync, over_async: The vector environment's steps a second over the others'.
        rounds: Number of rounds.
    """

    bench: str
    model: str
    num_envs: int
    seq_len: int
    sequences: int
    repair: str
    scores: bool
    memory_share: float
    vector_steps: float
    single_steps: float
    sync_steps: float
    async_steps: float | None
    over_single: float
    over_single_range: tuple[float, float]
    over_sync: float
    over_sync_range: tuple[float, float]
    over_async: float | None
    over_async_range: tuple[float, float] | None
    rounds: int


def vector_rows(options: Options) -> Iterator[VectorRow]:
    """Every model, length and number of environments, with and without repair and scores.

    Raises:
        InputError: A number of environments that is not a whole number of at least 1.
    """
    counts = whole_numbers(options.envs, "envs", 1)
    variants = [(repair, scores) for repair in ("none", "least_squares") for scores in (False, True)]
    for name in cli.words(options.models) or embedded_models():
        tokenizer = load_model(name).tokenizer
        for length, (repair, scores), count in itertools.product(options.check(), variants, counts):
            yield bench_vector(
                name,
                options.text(tokenizer, length),
                num_envs=count,
                sequences=options.tokens // length,
                repair=repair,
                scores=scores,
                memory_share=options.memory_share,
                rounds=options.rounds,
                device=options.settings.device,
                processes=options.processes,
            )


def bench_vector(
    name: str,
    text: TextSplits,
    *,
    num_envs: int,
    sequences: int,
    repair: str = "least_squares",
    scores: bool = True,
    memory_share: float = 0.02,
    rounds: int = 7,
    device: str = "cpu",
    processes: bool = True,
) -> VectorRow:
    """Time N environments in one batch against N by themselves.

    Args:
        name: Name of the model; every environment loads a copy of its own, but for those in the vector environment.
        text: Its text, packed at the sequence length to measure.
        num_envs: Number N of environments.
        sequences: Number of sequences in the calibration batch, and in the reward batch.
        repair, memory_share: Repair and memory share of the environments.
        scores: Whether OBS and residual scores are measured (not cross-fitted).
        rounds: Rounds after one that does not count.
        device: Device that the models lie on.
        processes: Whether to time Gymnasium's environments in processes too.
    """
    signals = {"obs_signal": scores, "residual_signal": scores, "crossfit_signal": False}
    settings = endless(text, sequences, device) | signals | {"model_name": name, "repair": repair, "max_sparsity": 1.0}

    def single() -> gym.Env[Any, Any]:
        return gym.make("plasticity/Heads-v1", disable_env_checker=True, **settings)

    alone = [single() for _ in range(num_envs)]
    vectors: dict[str, gym.vector.VectorEnv[Any, Any, Any]] = {
        "vector": gym.make_vec("plasticity/Heads-v1", num_envs=num_envs, memory_share=memory_share, **settings),
        "sync": gym.vector.SyncVectorEnv([single] * num_envs),
    }
    if processes:
        vectors["async"] = gym.vector.AsyncVectorEnv([single] * num_envs, context=start_method(device))
    units = vectors["vector"].single_observation_space["heads"].shape[0]  # type: ignore[index]
    masks = {way: _Masks((num_envs, units), seed) for seed, way in enumerate(["single", *vectors])}
    ways: dict[str, Callable[[], object]] = {
        way: functools.partial(_step, vector, masks[way]) for way, vector in vectors.items()
    }
    ways["single"] = lambda: [env.step(row) for env, row in zip(alone, masks["single"].actions(), strict=True)]
    with ExitStack() as stack:
        stack.enter_context(deaths_named(getattr(vectors.get("async"), "processes", ())))
        for vector in vectors.values():
            stack.callback(vector.close)
        for seed, env in enumerate(alone):
            env.reset(seed=seed)
        for vector in vectors.values():
            vector.reset(seed=0)
        times = take_turns(ways, rounds, check_device(device))
    over = {name: ratio(times[name], times["vector"]) for name in times if name != "vector"}
    speed = {name: num_envs / statistics.median(seconds) for name, seconds in times.items()}
    return VectorRow(
        bench="vector",
        model=name,
        num_envs=num_envs,
        seq_len=text.block_size,
        sequences=sequences,
        repair=repair,
        scores=scores,
        memory_share=memory_share,
        vector_steps=speed["vector"],
        single_steps=speed["single"],
        sync_steps=speed["sync"],
        async_steps=speed.get("async"),
        over_single=over["single"][0],
        over_single_range=over["single"][1],
        over_sync=over["sync"][0],
        over_sync_range=over["sync"][1],
        over_async=over["async"][0] if processes else None,
        over_async_range=over["async"][1] if processes else None,
        rounds=rounds,
    )


def _step(vector: gym.vector.VectorEnv[Any, Any, Any], masks: _Masks) -> None:
    vector.step(masks.actions())


class _Masks:
    """Actions that take each of N environments to a mask that it never had.

    Args:
        shape: (N, units).
        seed: Seed of the masks.
    """

    def __init__(self, shape: tuple[int, int], seed: int) -> None:
        self._random, self._active = np.random.default_rng(seed), np.ones(shape, dtype=bool)
        self._seen: set[tuple[int, bytes]] = set()

    def actions(self) -> np.ndarray:
        """(N, units): 0 keep, 1 prune, 2 revive."""
        while True:
            wanted = self._random.random(self._active.shape) >= _PRUNED
            keys = {(index, row.tobytes()) for index, row in enumerate(wanted)}
            if wanted.any(1).all() and not keys & self._seen:
                break
        self._seen |= keys
        actions = np.where(wanted == self._active, 0, np.where(self._active, 1, 2))
        self._active = wanted
        return actions
