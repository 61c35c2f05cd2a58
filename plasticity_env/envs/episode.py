"""An episode without any model: what is drawn at its start, and everything that changes during it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plasticity_env.common.errors import InputError
from plasticity_env.common.values import brief
from plasticity_env.data.text import Split, TextSplits
from plasticity_env.envs.edits import EditMasks
from plasticity_env.envs.measurement import Indices, Measurement, Request
from plasticity_env.envs.rewards import find_reward
from plasticity_env.envs.settings import LIMITS, Settings, bounds, check_range


@dataclass(frozen=True)
class Draw:
    """What the seed decides about an episode.

    Attributes:
        price: Price of the FLOPs.
        budget: Target share of dense FLOPs, or None.
        share: Share of all units, to be pruned when the horizon is over, or None.
        calibration, reward: Blocks of the text.
        moments: Calibration blocks that repairs and projectors are fitted on; empty: those that score.
        stream: Training stream, or None when the model is frozen.
    """

    price: float
    budget: float | None
    share: float | None
    calibration: Indices
    reward: Indices
    moments: Indices
    stream: int | None

    @property
    def fitted(self) -> Indices:
        """Blocks that repairs and projectors are fitted on."""
        return self.moments or self.calibration

    def request(self, active: Tensor) -> Request:
        """What a workbench is asked about an (L, U) mask in this episode."""
        return Request(active, self.calibration, self.reward, self.moments)

    def options(self) -> dict[str, Any]:
        """Reset options that give this draw again."""
        options: dict[str, Any] = {
            "flop_price": self.price,
            "calibration": list(self.calibration),
            "reward": list(self.reward),
        }
        if self.moments:
            options["moments"] = list(self.moments)
        if self.budget is not None:
            options["flop_budget"] = self.budget
        if self.share is not None:
            options["pruned_share"] = self.share
        if self.stream is not None:
            options["stream"] = self.stream
        return options


@dataclass(frozen=True)
class EpisodeState(Draw):
    """Everything that changes during an episode, but for the model's weights; replaced, never edited.

    Attributes:
        step: Number of decisions taken.
        active: (L, U) boolean.
        age: (L, U) decisions since each unit's last edit.
        reference: Loss of the dense model or of the control arm, nats per token, after each decision.
        measurement: The latest measurement.
        potential: Phi of the latest outcome.
        done: The agent stopped or the horizon is over.
        first_fisher: (L, U) Fisher scores when the episode began.
        start_share: Share of all units (or of their FLOPs) that was pruned when the episode began.
    """

    step: int
    active: Tensor
    age: np.ndarray
    reference: tuple[float, ...]
    measurement: Measurement
    potential: float
    done: bool
    first_fisher: Tensor
    start_share: float = 0.0

    @classmethod
    def start(
        cls, draw: Draw, measurement: Measurement, reference: tuple[float, ...], shape: tuple[int, int]
    ) -> EpisodeState:
        """The dense model, measured; the potential is still to be filled in."""
        return cls(
            price=draw.price,
            budget=draw.budget,
            share=draw.share,
            calibration=draw.calibration,
            reward=draw.reward,
            moments=draw.moments,
            stream=draw.stream,
            step=0,
            active=torch.ones(shape, dtype=torch.bool),
            age=np.zeros(shape, dtype=np.int64),
            reference=reference,
            measurement=measurement,
            potential=0.0,
            done=False,
            first_fisher=measurement.signals.fisher,
        )

    def after(self, masks: EditMasks) -> Tensor:
        """(L, U) mask that edits lead to."""
        return (self.active & ~masks.prune) | masks.revive | masks.grow

    def then(self, masks: EditMasks, measurement: Measurement, done: bool) -> EpisodeState:
        """One decision later; the potential is still the old one."""
        edited = (masks.prune | masks.revive | masks.grow).numpy()
        return replace(
            self,
            step=self.step + 1,
            active=self.after(masks),
            age=np.where(edited, 0, self.age + 1),
            measurement=measurement,
            done=done,
        )


def read_options(options: Any) -> dict[str, Any]:
    """Options of a reset as a dictionary of their own; empty where there are none.

    Raises:
        InputError: Something that is no mapping.
    """
    if options is not None and not isinstance(options, Mapping):
        raise InputError(f"reset options must be a mapping of names to values, got {brief(options)}")
    return dict(options or {})


def draw_episode(settings: Settings, text: TextSplits, random: np.random.Generator, options: dict[str, Any]) -> Draw:
    """Draw what is not given.

    Args:
        settings: Settings of the environment.
        text: Its text.
        random: Random generator of the environment; a fixed number of draws is taken from it whatever the options say.
        options: May fix ``flop_price``, ``flop_budget``, ``pruned_share``, ``calibration``, ``reward``, ``moments`` and
            ``stream``.

    Raises:
        InputError: An option that is unknown or out of range.
    """
    known = {"flop_price", "flop_budget", "pruned_share", "calibration", "reward", "moments", "stream"}
    if set(options) - known:
        raise InputError(f"unknown reset option {min(map(str, set(options) - known))!r}: known are {sorted(known)}")
    if settings.pruned_share is None and "pruned_share" in options:
        raise InputError(
            "pruned_share is the target of plasticity/HeadRank-v1 and Levels-v0: this environment has none"
        )
    ranges = {name: options.get(name, getattr(settings, name)) for name in LIMITS}
    for name, (above, most) in LIMITS.items():
        if name != "pruned_share" or ranges[name] is not None:
            check_range(name, ranges[name], above, most)
    if ranges["pruned_share"] is not None:
        settings.check_share(ranges["pruned_share"])
    # both are always drawn, so that a fixed price changes nothing else about a seed
    low, high = bounds(ranges["flop_price"])
    price = math.exp(math.log(low) + random.random() * (math.log(high) - math.log(low)))
    drawn = float(random.uniform(*bounds(ranges["flop_budget"])))
    budget = drawn if find_reward(settings.reward).needs_budget else None
    share = None if ranges["pruned_share"] is None else float(random.uniform(*bounds(ranges["pruned_share"])))
    stream = None
    if settings.train_steps > 0:  # a stream comes with its batches, so that its control arm is trained once
        drawn_stream = int(random.integers(settings.train_streams))
        stream = options.get("stream", drawn_stream)
        if not isinstance(stream, int | np.integer) or stream < 0:
            raise InputError(f"stream must be a whole number of at least 0, got {stream!r}")
        stream = int(stream)
        random = np.random.default_rng([stream, 1])
    calibration = _pick(text, random, "calibration", settings.calibration_blocks, options)
    reward = _pick(text, random, "reward", settings.reward_blocks, options)
    moments: Indices = ()
    if options.get("moments") and not settings.moment_blocks:
        raise InputError(
            "moments are blocks beside the calibration blocks: make the environment with moment_blocks above 0"
        )
    if settings.moment_blocks:
        moments = _pick(text, random, "calibration", settings.moment_blocks, options, "moments", calibration)
    return Draw(price, budget, share, calibration, reward, moments, stream)


def _pick(
    text: TextSplits,
    random: np.random.Generator,
    split: Split,
    count: int,
    options: dict[str, Any],
    option: str = "",
    without: Indices = (),
) -> Indices:
    """Blocks of a split that an option names (its own name unless given), or that are drawn beside some others."""
    there = len(text.blocks(split))
    drawn = tuple(text.draw(split, min(count, there - len(without)), random, without))
    given = options.get(option or split, drawn)
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise InputError(f"{split} blocks must be a list of numbers from 0 to {there - 1}, got {given!r}")
    chosen = list(given)
    if not chosen or not all(isinstance(i, int | np.integer) and 0 <= i < there for i in chosen):
        raise InputError(f"{split} blocks must be whole numbers from 0 to {there - 1}, got {chosen}")
    return tuple(map(int, chosen))
