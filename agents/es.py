"""CMA-ES (Hansen 2016, by the `cma` library) over the weights of a linear ranking: the black-box peer of the policy gradients.

A candidate is a vector of weights on the heads' features; it plays ``plasticity/HeadRank-v0`` on scenarios that all
candidates of a generation share (model, share, rounds, calibration and reward blocks), in one batch of the native vector
environment. What it is told is the final rise of the loss over the one that a reference rule reaches on the same scenario,
so that easy and hard scenarios count alike.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

import controllers
import plasticity_env  # noqa: F401  (registers the environments)
from agents.scenarios import SMALLEST_RISE
from controllers.ann import ANNController
from controllers.network import HeadNetwork, NetworkConfig
from controllers.protocol import as_scores
from plasticity_env.edits import KEEP
from plasticity_env.errors import InputError
from plasticity_env.files import write_text
from plasticity_env.observation import HEAD_FEATURES, Observation, head_columns
from plasticity_env.progress import Progress

HISTORY, CONTROLLER = "history.json", "controller"
FEATURES = (
    *("fisher_z", "gradient_z", "residual_fisher_z", "residual_gradient_z", "obs_z", "activation_z", "magnitude_z"),
    *("entropy_z", "gate_gradient_z", "fisher_rank", "residual_fisher_rank", "depth", "layer_active", "group_active"),
)


@dataclass(frozen=True)
class ESConfig:
    """Arguments of a search."""

    model_name: str = "bard-gpt2-4x4,bard-llama-4x8"
    """language models to train on, separated by commas"""
    dataset: str = "shakespeare"
    """text: shakespeare, a path, or a hub data set"""
    pruned_share: tuple[float, float] = (0.1, 0.6)
    """range of the share of heads to prune"""
    rounds: tuple[int, ...] = (4,)
    """numbers of rounds that scenarios have"""
    features: tuple[str, ...] = FEATURES
    """columns of the observation that the score is linear in"""
    start_feature: str = "residual_fisher_z"
    """the search starts at this feature alone"""
    reference: str = "fisher"
    """rule whose loss on the same scenario is the unit"""
    population: int = 12
    """candidates a generation"""
    scenarios: int = 4
    """scenarios that a generation plays"""
    generations: int = 40
    """generations in all"""
    sigma: float = 0.3
    """first step size"""
    repair: str = "least_squares"
    """none, bias, scale or least_squares"""
    calibration_blocks: int = 8
    """blocks that score and repair"""
    reward_blocks: int = 8
    """blocks that pay"""
    max_length: int = 128
    """tokens a block"""
    seed: int = 0
    """of everything"""
    device: str = "cpu"
    """cpu, cuda, ..."""

    def __post_init__(self) -> None:
        unknown = [name for name in (*self.features, self.start_feature) if name not in HEAD_FEATURES]
        if unknown:
            raise InputError(f"unknown feature {unknown[0]!r}: known are {', '.join(HEAD_FEATURES)}")
        if self.start_feature not in self.features:
            raise InputError(f"start_feature {self.start_feature!r} must be one of the features")
        for name in ("population", "scenarios", "generations", "calibration_blocks", "reward_blocks"):
            least = 4 if name == "population" else 1
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, got {getattr(self, name)!r}")
        if not self.rounds or min(self.rounds) < 1:
            raise InputError(f"rounds must be at least 1, got {self.rounds!r}")
        if not self.sigma > 0:
            raise InputError(f"sigma must be positive, got {self.sigma!r}")


@dataclass(frozen=True)
class Scenario:
    """What all candidates of a generation play.

    Attributes:
        model: Index of the language model.
        rounds: Decisions.
        share: Of all heads, to prune.
        seed: Of the calibration and reward blocks.
    """

    model: int
    rounds: int
    share: float
    seed: int


@dataclass
class Generation:
    """What a generation was told, enough to repeat the search without playing it.

    Attributes:
        fitness: Of each candidate, mean over scenarios of its loss rise over the reference's.
        steps: Environment steps that it took.
    """

    fitness: list[float] = field(default_factory=list)
    steps: int = 0


class LinearSearch:
    """The search; its state is the list of generations, which `resume` tells to a fresh CMA-ES again.

    Args:
        config: Arguments.
        folder: Where the history and the controller are written.

    Raises:
        InputError: A model or text that cannot be used.
    """

    def __init__(self, config: ESConfig, folder: Path) -> None:
        import cma

        self.config, self.folder = config, folder
        self.history: list[Generation] = []
        self._columns = head_columns(config.features)
        start = np.array([float(name == config.start_feature) for name in config.features])
        options = {"popsize": config.population, "seed": config.seed + 1, "verbose": -9, "CMA_diagonal": False}
        self._search = cma.CMAEvolutionStrategy(start, config.sigma, options)
        self._models = [name.strip() for name in config.model_name.split(",") if name.strip()]
        if not self._models:
            raise InputError("model_name is empty: give at least one language model")
        self._envs: dict[tuple[int, int, int], Any] = {}
        self._reference: dict[Scenario, float] = {}

    @property
    def steps(self) -> int:
        """Environment steps so far, the reference's included."""
        return sum(generation.steps for generation in self.history)

    @property
    def weights(self) -> np.ndarray:
        """(F,) the mean of the search distribution."""
        return np.asarray(self._search.mean)

    def resume(self) -> None:
        """Go on from the history in the folder, if there is one.

        Raises:
            InputError: It is of other arguments, or no history.
        """
        path = self.folder / HISTORY
        if not path.exists():
            return
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            generations = [Generation(**each) for each in data["generations"]]
            config = data["config"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{str(path)!r} is no history of a search: choose another --output_dir") from error
        mine = json.loads(json.dumps(asdict(self.config)))
        changed = [key for key, value in mine.items() if key != "generations" and config.get(key) != value]
        if changed:
            raise InputError(
                f"{str(path)!r} was made with {changed[0]} {config.get(changed[0])!r}, not {mine[changed[0]]!r}: "
                "choose another --output_dir"
            )
        for generation in generations:
            self._search.tell(self._search.ask(), generation.fitness)
        self.history = generations

    def run(self, report: Callable[[int, dict[str, float]], None] | None = None) -> ANNController:
        """Play the generations that are left; the folder holds history and controller after each.

        Args:
            report: Called with environment steps and metrics after each generation.
        """
        with Progress("searching", self.config.generations, start=len(self.history)) as progress:
            while len(self.history) < self.config.generations:
                candidates = self._search.ask()
                told = self._play(np.array(candidates), self.scenarios(len(self.history)))
                self._search.tell(candidates, told.fitness)
                self.history.append(told)
                self.save()
                metrics = {
                    "es/best": min(told.fitness),
                    "es/mean": float(np.mean(told.fitness)),
                    "es/sigma": float(self._search.sigma),
                }
                progress.advance(1, best=metrics["es/best"], mean=metrics["es/mean"])
                if report is not None:
                    report(self.steps, metrics)
        return self.controller()

    def scenarios(self, generation: int) -> list[Scenario]:
        """What a generation plays: models in turn, shares spread over the range, everything else by the seed."""
        config, found = self.config, []
        random = np.random.default_rng([config.seed, generation])
        low, high = config.pruned_share
        for index in range(config.scenarios):
            part = (index + random.random()) / config.scenarios
            number = generation * config.scenarios + index
            found.append(
                Scenario(
                    number % len(self._models),
                    int(random.choice(config.rounds)),
                    low + (high - low) * part,
                    int(random.integers(2**31)),
                )
            )
        return found

    def controller(self) -> ANNController:
        """The present mean as a controller."""
        network = HeadNetwork(NetworkConfig(head_features=tuple(self.config.features), context="linear"))
        with torch.no_grad():
            network.linear.weight.zero_()
            network.linear.bias.zero_()
            network.linear.weight[KEEP] = torch.tensor(self.weights, dtype=torch.float32)
        info = {"agent": "cma_es", "global_step": self.steps, "config": json.loads(json.dumps(asdict(self.config)))}
        return ANNController(network.eval(), info=info)

    def save(self) -> None:
        """Write history and controller."""
        data = {"config": asdict(self.config), "generations": [asdict(generation) for generation in self.history]}
        write_text(self.folder / HISTORY, json.dumps(data, indent=1))
        self.controller().save(self.folder / CONTROLLER)

    def close(self) -> None:
        """Close the environments."""
        for env in self._envs.values():
            env.close()

    def _play(self, candidates: np.ndarray, scenarios: list[Scenario]) -> Generation:
        """Fitness of (P, F) candidates."""
        ratios, steps = [], 0
        for scenario in scenarios:
            if scenario not in self._reference:
                self._reference[scenario] = float(self._rise(scenario, None).mean())
                steps += scenario.rounds
            rises = self._rise(scenario, candidates)
            steps += scenario.rounds * len(candidates)
            ratios.append(rises / max(self._reference[scenario], SMALLEST_RISE))
        return Generation([float(value) for value in np.mean(ratios, 0)], steps)

    def _rise(self, scenario: Scenario, candidates: np.ndarray | None) -> np.ndarray:
        """(P,) rise of the reward loss at the end, nats per token; of the reference rule where there are no candidates."""
        env = self._env(scenario, None if candidates is None else len(candidates))
        options = self._draw(env, scenario)
        observations, infos = env.reset(seed=scenario.seed, options=options)
        dense = infos["loss"].copy()
        rule = None
        if candidates is None:
            rule = controllers.make(self.config.reference)
            rule.reset(scenario.seed)
        for _ in range(scenario.rounds):
            if rule is not None:
                actions = np.asarray(rule.act({name: values[0] for name, values in observations.items()}))[None]
            else:
                assert candidates is not None
                actions = self._scores(observations, candidates)
            observations, _, _, _, infos = env.step(actions)
        return np.asarray(infos["loss"] - dense)

    def _scores(self, observations: Observation, candidates: np.ndarray) -> np.ndarray:
        importance = np.einsum("pnf,pf->pn", observations["heads"][:, :, self._columns].astype(np.float64), candidates)
        active = observations["heads"][:, :, head_columns(("active",))[0]] > 0.5
        return np.stack([as_scores(row, kept) for row, kept in zip(importance, active, strict=True)])

    def _draw(self, env: Any, scenario: Scenario) -> dict[str, Any]:
        """One draw for all candidates."""
        random = np.random.default_rng(scenario.seed)
        text, settings = env.workbench.text, env.settings
        options: dict[str, Any] = {"pruned_share": scenario.share, "flop_price": 4.0}
        for split, count in (("calibration", settings.calibration_blocks), ("reward", settings.reward_blocks)):
            drawn = random.choice(len(text.blocks(split)), count, replace=False)
            options[split] = sorted(int(index) for index in drawn)
        return options

    def _env(self, scenario: Scenario, candidates: int | None) -> Any:
        key = (scenario.model, scenario.rounds, candidates or 1)
        if key not in self._envs:
            config = self.config
            self._envs[key] = gym.make_vec(
                "plasticity/HeadRank-v0",
                num_envs=candidates or 1,
                vectorization_mode="vector_entry_point",
                autoreset_mode="Disabled",
                memory_share=math.inf,
                model_name=self._models[scenario.model],
                dataset=config.dataset,
                horizon=scenario.rounds,
                repair=config.repair,
                calibration_blocks=config.calibration_blocks,
                reward_blocks=config.reward_blocks,
                max_length=config.max_length,
                max_sparsity=1.0,
                obs_signal=any(name.startswith("obs") for name in config.features),
                device=config.device,
            )
        return self._envs[key]
