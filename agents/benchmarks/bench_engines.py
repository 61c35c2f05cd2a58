"""What a sample costs in each engine: one environment here, one a process, the native batch, and RLlib's env runners.

A sample is a decision of the same untrained network and the step that it leads to, on `plasticity/Heads-v1` with repair and
all scores, in an episode that does not end; with Ray also the way of the episode to the driver and of the weights to the
runners, as in each iteration of a training. The engines take turns, so that a machine whose speed drifts treats them alike.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import psutil
import torch

from plasticity_env.agents.benchmarks.bench_options import Options, endless, start_method, whole_numbers
from plasticity_env.agents.ppo.padding import Batch, decide
from plasticity_env.agents.ppo.ppo_config import PPOConfig
from plasticity_env.agents.rllib.ray_session import ray_session
from plasticity_env.common import cli
from plasticity_env.common.child_processes import deaths_named
from plasticity_env.common.packages import require
from plasticity_env.common.stopwatch import ratio, take_turns
from plasticity_env.controllers.network import HeadNetwork, NetworkConfig
from plasticity_env.data.text import TextSplits
from plasticity_env.envs.observation import Observation
from plasticity_env.model.embedded import embedded_models
from plasticity_env.model.loading import check_device, load_model

STEPS = 4  # of each environment in a round


@dataclass(frozen=True)
class EngineRow:
    """One engine; seconds are medians over the rounds, ratios are medians of each round's ratio, with their range.

    Attributes:
        bench, model, seq_len, sequences: What was measured: sequences in the calibration and in the reward batch each.
        engine: "local", "subprocess" (Gymnasium's AsyncVectorEnv), "vector" (native), or "ray, N runners" (0: sampling in
            the driver).
        environments, processes: Number of environments in all, and of processes that they are spread over.
        sample_s: Seconds of the wall a sample.
        sample_s_range: Smallest and largest of the rounds.
        over_local, over_local_range: Ratio to one environment in this process.
        cpu_s, cpu_over_local, cpu_over_local_range: The same in processor seconds of all processes together, which other work
            on the machine hardly lengthens; not of a device.
        rounds: Number of rounds.
    """

    bench: str
    model: str
    seq_len: int
    sequences: int
    engine: str
    environments: int
    processes: int
    sample_s: float
    sample_s_range: tuple[float, float]
    over_local: float
    over_local_range: tuple[float, float]
    cpu_s: float
    cpu_over_local: float
    cpu_over_local_range: tuple[float, float]
    rounds: int


def engine_rows(options: Options) -> Iterator[EngineRow]:
    """Every model, length and number of environments.

    Raises:
        InputError: An option is not a usable number, or Ray is not installed.
    """
    environments = whole_numbers(options.envs, "envs", 1)
    runners = whole_numbers(options.runners, "runners", 0)
    if runners:
        require("ray.rllib", "ray")
    for name in cli.words(options.models) or embedded_models():
        tokenizer = load_model(name).tokenizer
        for length, count in itertools.product(options.check(), environments):
            text = options.text(tokenizer, length)
            yield from bench_engines(
                name, text, count, runners, options.tokens // length, options.rounds, options.settings.device
            )


def bench_engines(
    name: str, text: TextSplits, count: int, runners: list[int], sequences: int, rounds: int = 7, device: str = "cpu"
) -> Iterator[EngineRow]:
    """Time a sample in every engine.

    Args:
        name: Name of the model.
        text: Its text, packed at the sequence length to measure.
        count: Environments, of every engine but the single one.
        runners: Numbers of Ray's env runners.
        sequences: Number of sequences in the calibration batch, and in the reward batch.
        rounds: Rounds after one that does not count.
        device: Device that the models lie on.
    """
    settings = endless(text, sequences, device) | {"model_name": name, "max_sparsity": 0.75}

    def single() -> gym.Env[Any, Any]:
        return gym.make("plasticity/Heads-v1", disable_env_checker=True, **settings)

    torch.manual_seed(0)
    network = HeadNetwork(NetworkConfig(keep_bias=1.0))
    with ExitStack() as stack:
        vectors: dict[str, gym.vector.VectorEnv[Any, Any, Any]] = {
            # first, as it forks and Ray starts threads
            "subprocess": gym.vector.AsyncVectorEnv([single] * count, context=start_method(device)),
            "vector": gym.make_vec("plasticity/Heads-v1", num_envs=count, **settings),
            "local": gym.vector.SyncVectorEnv([single]),
        }
        stack.enter_context(deaths_named(vectors["subprocess"].processes))  # type: ignore[attr-defined]
        for vector in vectors.values():
            stack.callback(vector.close)
        ways: dict[str, Callable[[], object]] = {way: _Sampler(vector, network) for way, vector in vectors.items()}
        spread = {"local": (1, 1), "subprocess": (count, count), "vector": (count, 1)}
        if runners:
            stack.enter_context(ray_session("local", sum(runners), 2**28))
        for number in runners:
            way = f"ray, {number} runners"
            ways[way], in_all = _ray_sampler(stack, [single() for _ in range(count)], network, number)
            spread[way] = in_all, max(1, number)
        billed = {way: _Billed(call) for way, call in ways.items()}
        times = take_turns(billed, rounds, check_device(device))
    for way, seconds in times.items():
        each = [value / (STEPS * spread[way][0]) for value in seconds]
        over, over_range = ratio(each, [value / STEPS for value in times["local"]])
        bill = [value / (STEPS * spread[way][0]) for value in billed[way].seconds[1:]]
        cpu_over, cpu_range = ratio(bill, [value / STEPS for value in billed["local"].seconds[1:]])
        yield EngineRow(
            bench="engines",
            model=name,
            seq_len=text.block_size,
            sequences=sequences,
            engine=way,
            environments=spread[way][0],
            processes=spread[way][1],
            sample_s=statistics.median(each),
            sample_s_range=(min(each), max(each)),
            over_local=over,
            over_local_range=over_range,
            cpu_s=statistics.median(bill),
            cpu_over_local=cpu_over,
            cpu_over_local_range=cpu_range,
            rounds=rounds,
        )


class _Billed:
    """Calls, and adds up what this process and all below it spent of the processor."""

    def __init__(self, way: Callable[[], object]) -> None:
        self._way = way
        self.seconds: list[float] = []

    def __call__(self) -> None:
        before = self._spent()
        self._way()
        self.seconds.append(self._spent() - before)

    def _spent(self) -> float:
        here = psutil.Process()
        total = 0.0
        for process in (here, *here.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total


class _Sampler:
    """Lets the network play a vector environment for some steps."""

    def __init__(self, vector: gym.vector.VectorEnv[Any, Any, Any], network: HeadNetwork) -> None:
        self._vector, self._network, self._random = vector, network, torch.Generator().manual_seed(0)
        self._observation: Observation = vector.reset(seed=0)[0]

    @torch.no_grad()
    def __call__(self) -> None:
        for _ in range(STEPS):
            seen = {key: torch.from_numpy(np.asarray(value)) for key, value in self._observation.items()}
            every = torch.ones(seen["heads"].shape[:2], dtype=torch.bool)
            batch = Batch(seen["heads"], seen["globals"], seen["action_mask"].bool(), every)
            actions = decide(self._network, batch, one_edit=False).actions.sample(self._random).numpy()
            self._observation = self._vector.step(actions)[0]


def _ray_sampler(
    stack: ExitStack, envs: list[gym.Env[Any, Any]], network: HeadNetwork, runners: int
) -> tuple[Callable[[], object], int]:
    """What samples, ships the weights, and how many environments it runs."""
    from ray.rllib.execution.rollout_ops import synchronous_parallel_sample

    from plasticity_env.agents.rllib.rllib import RLlibPPO

    ppo = RLlibPPO(envs, PPOConfig(num_steps=STEPS), runners=runners, network=network)
    algorithm = stack.enter_context(ppo.algorithm())

    def sample() -> None:
        synchronous_parallel_sample(
            worker_set=algorithm.env_runner_group,
            max_env_steps=ppo.batch,
            _uses_new_env_runners=True,
            _return_metrics=True,
        )
        algorithm.env_runner_group.sync_weights(
            from_worker_or_learner_group=algorithm.learner_group, inference_only=True
        )

    return sample, ppo.batch // STEPS
