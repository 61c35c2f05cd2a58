"""What one ``env.step()`` costs, beside the least it could cost and beside the naive way.

Floor: a gated stock-SDPA forward and gate-only backward on the calibration batch, and one forward without gradients on the
reward batch. Naive: eager attention with ``output_attentions``, entropy from the T x T matrices, a full weight backward, and
a second forward for the loss. The three take turns, so that a machine whose speed drifts treats them alike.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from plasticity_env.agents.benchmarks.bench_options import Options, endless
from plasticity_env.common.stopwatch import Clock, ratio, timed
from plasticity_env.data.text import TextSplits
from plasticity_env.envs.base import PlasticityEnv
from plasticity_env.model.attention import IMPLEMENTATION
from plasticity_env.model.loading import LoadedModel
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.signals.measure import mean_loss, sequence_losses


@dataclass(frozen=True)
class StepRow:
    """Seconds are medians over the rounds; ratios are medians of each round's ratio, with their range.

    Attributes:
        bench, model, seq_len, sequences: What was measured: sequences in the calibration and in the reward batch each.
        repair, obs, crossfit: What the step did besides the floor's work; ``obs`` stands for the OBS and the residual scores,
            ``crossfit`` for these cross-fitted as well.
        step_s, floor_s, naive_s: Seconds; naive is None where it was left out.
        step_over_floor, naive_over_step: Ratios.
        step_over_floor_range: Smallest and largest of the rounds.
        rounds: Number of rounds.
    """

    bench: str
    model: str
    seq_len: int
    sequences: int
    repair: str
    obs: bool
    crossfit: bool
    step_s: float
    floor_s: float
    naive_s: float | None
    step_over_floor: float
    naive_over_step: float | None
    step_over_floor_range: tuple[float, float]
    rounds: int


def step_rows(options: Options) -> Iterator[StepRow]:
    """Every model at every length, without repair and with all that a step can do."""
    for loaded, text in options.loaded():
        for repair, obs, crossfit in (
            ("none", False, False),
            ("least_squares", True, False),
            ("least_squares", True, True),
        ):
            yield bench_step(
                loaded,
                text,
                sequences=options.tokens // text.block_size,
                repair=repair,
                obs=obs,
                crossfit=crossfit,
                naive=repair == "none",
                rounds=options.rounds,
                device=options.settings.device,
                clock=options.clock,
            )


def bench_step(
    loaded: LoadedModel,
    text: TextSplits,
    *,
    sequences: int = 8,
    repair: str = "none",
    obs: bool = False,
    crossfit: bool = False,
    naive: bool = True,
    rounds: int = 7,
    device: str = "cpu",
    clock: Clock = "wall",
) -> StepRow:
    """Time a step of ``plasticity/Heads-v1`` against the floor and the naive way.

    Args:
        loaded: The model; left dense.
        text: Its text, packed at the sequence length to measure.
        sequences: Number of sequences in the calibration batch, and in the reward batch; each is run as one batch.
        repair: Repair of the environment.
        obs: Whether the step computes the OBS and the residual scores.
        crossfit: Whether it computes these cross-fitted as well.
        naive: Whether to time the naive way too.
        rounds: Rounds after one that does not count.
        device: Device that the model lies on.
        clock: See `plasticity_env.common.stopwatch.timed`.
    """
    env: PlasticityEnv = gym.make(
        "plasticity/Heads-v1",
        loaded=loaded,
        disable_env_checker=True,
        batch_size=sequences,
        repair=repair,
        obs_signal=obs,
        residual_signal=obs,
        crossfit_signal=crossfit,
        max_sparsity=1.0,
        **endless(text, sequences, device),
    ).unwrapped  # type: ignore[assignment]
    env.reset(seed=0)
    bench = env.workbench
    state = env.get_state()["episode"]
    calibration, reward = bench.blocks("calibration", state.calibration), bench.blocks("reward", state.reward)
    calibration, reward = calibration.to(bench.model.device), reward.to(bench.model.device)
    random = np.random.default_rng(0)

    def step() -> None:
        share = random.random(env.head_slots)
        bench.memo.clear()
        env.step(np.where(bench.model.active.numpy().reshape(-1), np.where(share < 0.2, 1, 0), 2))

    def floor() -> None:
        leaf = bench.model.gates.to(bench.model.device).requires_grad_()
        with bench.model.using(leaf):
            torch.autograd.grad(sequence_losses(bench.model, calibration).sum(), leaf)
            mean_loss(bench.model, reward, sequences)

    times: dict[str, list[float]] = {"step": [], "floor": [], "naive": []}
    ways: list[tuple[str, Callable[[], None]]] = [("step", step), ("floor", floor)]
    if naive:
        ways.append(("naive", lambda: _naive(bench.model, calibration, reward)))
    for turn in range(rounds + 1):
        for name, way in ways:
            for parameter in bench.model.parameters():
                parameter.requires_grad_(name == "naive")
            seconds = timed(way, bench.model.device, clock)
            if turn > 0:
                times[name].append(seconds)
    over_floor, over_floor_range = ratio(times["step"], times["floor"])
    slower = [a / b for a, b in zip(times["naive"], times["step"], strict=False)]
    bench.model.set_active(torch.ones_like(bench.model.active))
    bench.model.requires_grad_(True)
    return StepRow(
        bench="step",
        model=loaded.name,
        seq_len=text.block_size,
        sequences=sequences,
        repair=repair,
        obs=obs,
        crossfit=crossfit,
        step_s=statistics.median(times["step"]),
        floor_s=statistics.median(times["floor"]),
        naive_s=statistics.median(times["naive"]) if naive else None,
        step_over_floor=over_floor,
        naive_over_step=statistics.median(slower) if slower else None,
        step_over_floor_range=over_floor_range,
        rounds=rounds,
    )


def _naive(plastic: PlasticModel, calibration: Tensor, reward: Tensor) -> None:
    model: Any = plastic.model
    with plastic.open_gates():  # eager attention knows none
        _naive_passes(model, calibration, reward)


def _naive_passes(model: Any, calibration: Tensor, reward: Tensor) -> None:
    model.set_attn_implementation("eager")
    try:
        output = model(calibration, labels=calibration, output_attentions=True, use_cache=False)
        for attention in output.attentions:  # (B, H, T, T)
            weights = attention.detach()
            -(weights * (weights + 1e-9).log()).sum(-1).mean((0, 2))
        output.loss.backward()
        model.zero_grad(set_to_none=True)
        with torch.no_grad():
            model(reward, labels=reward, use_cache=False)
    finally:
        model.set_attn_implementation(IMPLEMENTATION)
