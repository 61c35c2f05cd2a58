"""Learning curves of all agents at equal numbers of environment steps, on scenarios that none of them trains on.

Every agent is a training as `scripts/train_controller.py` runs it, on one model and `plasticity/HeadRank-v1` with the same
rounds and shares; one that does not train there, as MaskablePPO, on the first environment that it does train on. Every so many
steps its controller, as it then is, plays the same held-out scenarios. Points are appended to a JSON lines file as they are
measured; a cut study goes on, from checkpoints where the agent keeps them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from plasticity_env.agents.es_config import FEATURES
from plasticity_env.agents.ppo.ppo import Metrics
from plasticity_env.agents.ppo.ppo_config import PPOConfig
from plasticity_env.agents.ppo.rank_config import RankConfig
from plasticity_env.agents.ppo.scenarios import Scenario, Stage, choose_by
from plasticity_env.agents.studies.curves_config import CurvesConfig
from plasticity_env.agents.training.agent import find_agent
from plasticity_env.agents.training.train_config import TrainConfig
from plasticity_env.agents.training.training_envs import make_environments
from plasticity_env.common.arguments import first_change, flat, plain
from plasticity_env.common.at_work import at_work_in
from plasticity_env.common.cli import words
from plasticity_env.common.errors import InputError, first_line
from plasticity_env.common.files import write_text
from plasticity_env.common.jsonl_table import CellFile
from plasticity_env.controllers.ann import ANNController

CELLS, RUNS = "cells.jsonl", "runs"
HELD_OUT = 10_000  # seeds from here on are of held-out scenarios
SIZE: dict[str, Any] = {"num_steps": 16, "num_minibatches": 4, "learning_rate": 3e-3, "ent_coef": 0.0}
LINEAR_RATE = 0.03  # a weight of the linear network acts at once on all heads


@dataclass(frozen=True)
class Point:
    """One evaluation of one training.

    Attributes:
        agent: Name of the agent with its network, as asked for.
        seed: Seed of the training.
        steps: Environment steps behind it.
        rises: Rise of the loss on each held-out scenario, nats per token.
        rule: The reference rule's.
        final: Whether the training was over.
    """

    agent: str
    seed: int
    steps: int
    rises: tuple[float, ...]
    rule: tuple[float, ...]
    final: bool

    @classmethod
    def parse(cls, data: dict[str, Any]) -> Point:
        """Read a line of the file."""
        return cls(**{**data, "rises": tuple(data["rises"]), "rule": tuple(data["rule"])})

    @property
    def ratio(self) -> float:
        """Mean rise over the rule's mean rise: 1 is as good as the rule, less is better."""
        return sum(self.rises) / sum(self.rule)


class HeldOut:
    """Fixed scenarios, and what the reference rule reaches on them.

    Args:
        config: Configuration of the study.
    """

    def __init__(self, config: CurvesConfig) -> None:
        training = train_config(config, "ppo", 0)
        model = config.settings.model_name
        self._stage = Stage([model], training.environment(model), training.rank)
        random = np.random.default_rng(HELD_OUT)
        self.scenarios: list[Scenario] = [
            self._stage.draw(random, 0, config.held_out, place) for place in range(config.held_out)
        ]
        self._reference = config.reference
        self._rule: tuple[float, ...] = ()

    @property
    def rule(self) -> tuple[float, ...]:
        """The reference's rises, nats per token."""
        if not self._rule:
            self._rule = self.rises_of_rule(self._reference)
        return self._rule

    def rises_of_rule(self, name: str) -> tuple[float, ...]:
        """A rule's rises, nats per token."""
        return tuple(float(self._stage.play_rule(each, name).rises[0]) for each in self.scenarios)

    def rises(self, controller: ANNController) -> tuple[float, ...]:
        """A controller's rises, nats per token."""
        was = controller.network.training
        controller.network.eval()
        found = tuple(float(self._stage.play(each, choose_by([controller]), 1).rises[0]) for each in self.scenarios)
        controller.network.train(was)
        return found


def study(config: CurvesConfig, say: Callable[[str], None] = print) -> list[Point]:
    """Train what is missing and evaluate it on the way.

    Args:
        config: Arguments.
        say: Told what happens.

    Returns:
        All points of the file of the agents asked for, those of other seeds included.

    Raises:
        InputError: Arguments that cannot be used, the folder holds a study of others, or another process is at work there.
    """
    with at_work_in(config.output_dir):
        return _study(config, say)


def _study(config: CurvesConfig, say: Callable[[str], None]) -> list[Point]:
    held_out = HeldOut(config)
    config.output_dir.mkdir(parents=True, exist_ok=True)
    _same_study(config)
    cells = CellFile(config.output_dir / CELLS, Point.parse, "this study")
    for agent in words(config.agents):
        missing = find_agent(agent.partition(":")[0]).missing()
        if missing is not None:
            say(f"{agent} is left out: {missing}")
            continue
        for seed in range(config.first_seed, config.first_seed + config.seeds):
            mine = [point for point in cells.read() if (point.agent, point.seed) == (agent, seed)]
            if any(point.final for point in mine):
                continue
            see = _Evaluation(config, agent, seed, held_out, cells, say)
            _learn(config, agent, seed, see)
    found = latest(cells.read(), words(config.agents))
    if not found:
        raise InputError("nothing was played: install Ray, or ask for other --agents")
    return found


def latest(points: list[Point], agents: list[str]) -> list[Point]:
    """Points of some agents; of those that a repeated training measured again, the last."""
    found = {(point.agent, point.seed, point.steps): point for point in points if point.agent in agents}
    return sorted(found.values(), key=lambda point: (agents.index(point.agent), point.seed, point.steps))


def train_config(config: CurvesConfig, agent: str, seed: int) -> TrainConfig:
    """The training of an agent."""
    name, _, context = agent.partition(":")
    record = find_agent(name)
    size = {**SIZE, "learning_rate": LINEAR_RATE} if context == "linear" else SIZE
    ppo = PPOConfig(
        total_timesteps=config.total_timesteps,
        context=context or "deep_sets",
        head_features=",".join(FEATURES) if context == "linear" else "",  # what CMA-ES reads
        seed=seed,
        device=config.settings.device,
        **size,
    )
    folder = config.output_dir / RUNS / f"{agent.replace(':', '_')}_{seed}"
    return TrainConfig(
        agent=name,
        env="head_rank" if "head_rank" in record.envs else record.envs[0],
        model_name=config.settings.model_name,
        settings=replace(config.settings, horizon=config.rounds),
        ppo=ppo,
        rank=RankConfig(pruned_share=config.pruned_share, rounds=str(config.rounds), reference=config.reference),
        output_dir=folder,
        resume=record.can_resume(folder),
    )


See = Callable[[int, ANNController, bool], None]


class _Evaluation:
    """Evaluates a training every so many steps, and writes the points down."""

    def __init__(
        self,
        config: CurvesConfig,
        agent: str,
        seed: int,
        held_out: HeldOut,
        cells: CellFile[Point],
        say: Callable[[str], None],
    ) -> None:
        self._config, self._agent, self._seed = config, agent, seed
        self._held_out, self._cells, self._say = held_out, cells, say
        self._due = 0

    def __call__(self, steps: int, controller: ANNController, final: bool) -> None:
        if steps < self._due and not final:
            return
        self._due = (steps // self._config.evaluate_every + 1) * self._config.evaluate_every
        rises = self._held_out.rises(controller)
        point = Point(self._agent, self._seed, steps, rises, self._held_out.rule, final)
        self._cells.append(asdict(point))
        unit = f"of {self._config.reference}'s rise"
        self._say(f"{self._agent}, seed {self._seed}, {steps} steps: {point.ratio:.3f} {unit}")


def _learn(config: CurvesConfig, agent: str, seed: int, see: See) -> None:
    training = train_config(config, agent, seed)
    assert training.output_dir is not None
    envs = make_environments(training)
    learner = find_agent(training.agent).learner(training, envs)
    if learner.start == 0:
        see(0, learner.now(), False)
    reached = learner.start

    def report(step: int, metrics: Metrics) -> None:
        nonlocal reached
        reached = step + learner.reference_steps()
        see(reached, learner.now(), False)
        if reached >= config.total_timesteps and step < reached:
            raise _EnoughError

    training.output_dir.mkdir(parents=True, exist_ok=True)
    with suppress(_EnoughError):
        learner.learn(training.output_dir, report)
    see(reached, learner.now(), True)


class _EnoughError(Exception):
    """The rule's steps and the agent's are as many as asked for: the agent itself would go on."""


def _same_study(config: CurvesConfig) -> None:
    """Note what the study is, or refuse a folder of another."""
    path = config.output_dir / "config.json"
    free = ("agents", "seeds", "first_seed", "output_dir", "device")
    if path.exists():
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
            changed = first_change(config, there, [name for name in flat(config) if name not in free])
        except (ValueError, TypeError, AttributeError) as error:
            raise InputError(
                f"{str(path)!r} cannot be read ({first_line(error)}): choose another --output_dir"
            ) from error
        if changed is not None:
            name, theirs, mine = changed
            raise InputError(
                f"{str(config.output_dir)!r} holds a study with {name} {theirs!r}, not {mine!r}: "
                "choose another --output_dir"
            )
    else:
        write_text(path, json.dumps(plain(config), indent=1) + "\n")
