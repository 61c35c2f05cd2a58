"""Scenarios of `plasticity/HeadRank-v1`: who learns plays each several times, beside a rule that sets the scale.

A scenario fixes all that a seed would draw: model, mode, rounds, share and blocks. Members of a group that play the same one
differ in nothing but their decisions (common random numbers), so the group's mean loss is the baseline of each; and the rise
of the loss counts in units of what a reference rule reaches on the same scenario, so that easy and hard ones weigh alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plasticity_env import controllers
from plasticity_env.agents.ppo.rank_config import RankConfig
from plasticity_env.common.errors import InputError
from plasticity_env.controllers.base import Controller
from plasticity_env.data.text import TextSplits
from plasticity_env.envs.make_workbench import load_model_and_text
from plasticity_env.envs.observation import Observation
from plasticity_env.envs.rank_vector import HeadRankVectorEnv
from plasticity_env.envs.settings import Settings, bounds
from plasticity_env.model.loading import LoadedModel
from plasticity_env.model.modes import PruningMode

SMALLEST_RISE = 0.02  # nats; where the reference rises less, ratios would mostly be noise
Choose = Callable[[Observation], np.ndarray]


@dataclass(frozen=True)
class Scenario:
    """One episode but for its decisions.

    Attributes:
        model: Name of the model.
        mode: "adaptive" or "compressed".
        rounds: Number of decisions.
        share: Share of all units, pruned at the end.
        price: FLOP price that is observed.
        calibration, reward: Blocks of the text.
    """

    model: str
    mode: str
    rounds: int
    share: float
    price: float
    calibration: tuple[int, ...]
    reward: tuple[int, ...]

    def but(self, **changes: Any) -> Scenario:
        """The same with other values."""
        return replace(self, **changes)

    def options(self) -> dict[str, Any]:
        """Options for `reset`."""
        blocks = {"calibration": list(self.calibration), "reward": list(self.reward)}
        return {"pruned_share": self.share, "flop_price": self.price, **blocks}


@dataclass(frozen=True)
class Turn:
    """One decision of a group of M.

    Attributes:
        observation: The observation before it, M of each.
        scores: (M, N) that were given.
        before, after: (M, N) boolean, True = active.
        loss: (M,) reward loss after it, nats per token.
    """

    observation: Observation
    scores: np.ndarray
    before: Tensor
    after: Tensor
    loss: np.ndarray


@dataclass(frozen=True)
class Played:
    """A scenario as a group of M played it.

    Attributes:
        scenario: Scenario that was played.
        dense: Loss of the dense model, nats per token.
        turns: The decisions.
        flops_kept: (M,) share of the dense model's FLOPs at the end.
    """

    scenario: Scenario
    dense: float
    turns: list[Turn]
    flops_kept: np.ndarray

    @property
    def rises(self) -> np.ndarray:
        """(M,) rise of the loss at the end, nats per token."""
        return self.turns[-1].loss - self.dense


class Stage:
    """The models and texts of a training, each loaded once, on which scenarios are drawn and played.

    Args:
        models: Names of the models.
        settings: Settings of the environments, but for model, mode and horizon, which scenarios decide.
        config: What is drawn.
        modes: Modes that are drawn.

    Raises:
        InputError: A model, text or setting that cannot be used, or a rule that needs what the environments do not measure.
    """

    def __init__(
        self,
        models: Sequence[str],
        settings: Settings,
        config: RankConfig,
        modes: Sequence[str] = ("adaptive",),
    ) -> None:
        self.models, self.config = list(models), config
        self.modes = [PruningMode.parse(mode).value for mode in modes]
        self._settings = settings
        self._loaded: dict[str, tuple[LoadedModel, TextSplits]] = {}
        self._references: dict[Scenario, float] = {}
        self.price = float(np.exp(np.mean(np.log(bounds(settings.flop_price)))))
        self.reference_steps = 0
        for model in self.models:  # fails here rather than in the middle of a training
            share = config.shares[0]
            first = Scenario(model, self.modes[0], config.round_numbers[0], share, self.price, (0,), (0,))
            envs = self._environment(first, 1)
            there = len(self._load(model)[1].blocks("calibration"))
            if max(config.sizes, default=0) > there:
                raise InputError(
                    f"calibration_sizes {config.calibration_sizes!r} asks for more than the {there} calibration blocks of "
                    f"{model}: ask for fewer"
                )
            if model == self.models[0]:
                self._let_rules_act(envs.reset(seed=0, options=first.options())[0])

    @property
    def counts_units(self) -> bool:
        """Whether a share is one of the number of units, not of their FLOPs."""
        return self._settings.units == "heads"

    def draw(self, random: np.random.Generator, number: int, count: int, place: int) -> Scenario:
        """Draw a scenario: models and modes take turns, shares are spread over the range, the rest is random.

        Args:
            random: Generator that draws.
            number: Number of the scenario in the training, for the turns.
            count: Scenarios of the update, which cut the range of shares in equal parts.
            place: Place of this scenario among them.
        """
        model = self.models[number % len(self.models)]
        mode = self.modes[number // len(self.models) % len(self.modes)]
        low, high = self.config.shares
        share = low + (high - low) * (place + random.random()) / count
        rounds = int(random.choice(self.config.round_numbers))
        text = self._load(model)[1]
        blocks = []
        for split in ("calibration", "reward"):
            asked = getattr(self._settings, f"{split}_blocks")
            if split == "calibration" and self.config.sizes:
                asked = int(random.choice(self.config.sizes))
            drawn = random.choice(len(text.blocks(split)), asked, replace=False)  # type: ignore[arg-type]
            blocks.append(tuple(sorted(int(index) for index in drawn)))
        return Scenario(model, mode, rounds, share, self.price, blocks[0], blocks[1])

    def draw_all(self, random: np.random.Generator, first: int, count: int) -> list[Scenario]:
        """Draw the scenarios of an update, their shares spread over the range in random order.

        In a fixed order each model would meet one part of the range only, where the models go into ``count``.

        Args:
            random: Generator that draws.
            first: Number of the first of them in the training.
            count: Number of scenarios.
        """
        places = random.permutation(count).tolist()
        return [self.draw(random, first + index, count, place) for index, place in enumerate(places)]

    def play(self, scenario: Scenario, choose: Choose, members: int) -> Played:
        """Let a group play a scenario.

        Args:
            scenario: Scenario to play.
            choose: (M, N) scores from the observations of M members.
            members: Number M of episodes.
        """
        envs = self._environment(scenario, members)
        observation, infos = envs.reset(seed=0, options=scenario.options())
        dense, turns = float(infos["loss"][0]), []
        for _ in range(scenario.rounds):
            before, scores = _masks(envs), choose(observation)
            following, _, _, _, infos = envs.step(scores)
            turns.append(Turn(observation, scores, before, _masks(envs), np.array(infos["loss"])))
            observation = following
        return Played(scenario, dense, turns, np.asarray(infos["flops"]) / envs.dense_flops)

    def play_rule(self, scenario: Scenario, name: str) -> Played:
        """Let a controller play a scenario once.

        Args:
            scenario: Scenario to play.
            name: Name of the rule, as `controllers.make` takes it.
        """
        rule = controllers.make(name)
        rule.reset(0)
        return self.play(scenario, choose_by([rule]), 1)

    def unit(self, scenario: Scenario) -> float:
        """Rise of the loss that the reference rule reaches on a scenario, nats; `reference_steps` counts what it takes."""
        if scenario not in self._references:
            rise = float(self.play_rule(scenario, self.config.reference).rises[0])
            self._references[scenario] = max(rise, SMALLEST_RISE)
            self.reference_steps += scenario.rounds
        return self._references[scenario]

    def _let_rules_act(self, observations: Observation) -> None:
        """Let every rule that will play act once: one that needs more than is measured says so."""
        for name in filter(None, (self.config.reference, self.config.warm_start)):
            rule = controllers.make(name)
            rule.reset(0)
            choose_by([rule])(observations)

    def _environment(self, scenario: Scenario, members: int) -> HeadRankVectorEnv:
        """Environments over the shared model: made anew, which takes milliseconds, so that nothing piles up."""
        loaded, text = self._load(scenario.model)
        settings = replace(
            self._settings,
            model_name=scenario.model,
            mode=scenario.mode,
            horizon=scenario.rounds,
            pruned_share=scenario.share,
        )
        return HeadRankVectorEnv(
            members,
            autoreset_mode="Disabled",
            memory_share=math.inf,
            loaded=loaded,
            text=text,
            **settings.kwargs(),
        )

    def _load(self, model: str) -> tuple[LoadedModel, TextSplits]:
        if model not in self._loaded:
            self._loaded[model] = load_model_and_text(replace(self._settings, model_name=model))
        return self._loaded[model]


def rows_of(observations: Observation) -> list[Observation]:
    """The observation of each member of a group, from arrays of M of each."""
    return [observations.row(row) for row in range(len(observations["heads"]))]


def choose_by(players: Sequence[Controller]) -> Choose:
    """What a group of M decides where each member has a controller of its own."""

    def choose(observations: Observation) -> np.ndarray:
        rows = rows_of(observations)
        return np.stack([np.asarray(player.act(row)) for player, row in zip(players, rows, strict=True)])

    return choose


def _masks(envs: HeadRankVectorEnv) -> Tensor:
    return torch.stack([state.active.flatten() for state in envs.states])  # (M, N)
