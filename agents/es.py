"""CMA-ES (Hansen 2016, by the `cma` library) over the weights of a linear ranking: the black-box peer of the policy gradients.

A candidate is a vector of weights on the heads' features; it plays ``plasticity/HeadRank-v1`` on scenarios that all
candidates of a generation share (model, share, rounds, calibration and reward blocks), in one batch of the native vector
environment. What it is told is the final rise of the loss over the one that a reference rule reaches on the same scenario,
so that easy and hard scenarios count alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from plasticity_env.agents.es_config import ESConfig
from plasticity_env.agents.ppo.rank_config import RankConfig
from plasticity_env.agents.ppo.scenarios import Scenario, Stage
from plasticity_env.common.arguments import first_change, flat, plain
from plasticity_env.common.at_work import at_work_in
from plasticity_env.common.cli import words
from plasticity_env.common.errors import InputError
from plasticity_env.common.files import write_text
from plasticity_env.common.packages import require
from plasticity_env.common.progress import Progress
from plasticity_env.common.tracking import new_run_folder
from plasticity_env.controllers.ann import ANNController
from plasticity_env.controllers.base import as_scores
from plasticity_env.controllers.network import HeadNetwork, NetworkConfig
from plasticity_env.envs.edits import KEEP
from plasticity_env.envs.observation import Observation, head_columns

HISTORY, CONTROLLER = "history.json", "controller"


@dataclass
class Generation:
    """What a generation was told, enough to repeat the search without playing it.

    Attributes:
        fitness: Fitness of each candidate, mean over scenarios of its loss rise over the reference's.
        steps: Environment steps that it took.
    """

    fitness: list[float] = field(default_factory=list)
    steps: int = 0


def search(config: ESConfig, folder: Path | None) -> LinearSearch:
    """Search to the end, or go on with the search in a folder.

    Args:
        config: Arguments.
        folder: Folder of the run; None: a new one under ``runs/``.

    Returns:
        The search that is over; its folder holds history and controller.

    Raises:
        InputError: A model or text that cannot be used, a folder of another search, or one in which another process is at work.
        OSError: Nothing can be written in the folder; said before anything is played.
    """
    with at_work_in(folder):
        found = LinearSearch(config, folder or Path())
        if folder is None:
            found.folder = new_run_folder("es")
        else:
            found.resume()
        found.run()
    return found


class LinearSearch:
    """The search; its state is the list of generations, which `resume` tells to a fresh CMA-ES again.

    Args:
        config: Arguments.
        folder: Folder that the history and the controller are written to.

    Raises:
        InputError: A model or text that cannot be used.
    """

    def __init__(self, config: ESConfig, folder: Path) -> None:
        require("cma", "rl")
        import cma

        self.config, self.folder = config, folder
        self.history: list[Generation] = []
        self._columns = head_columns(config.features)
        start = np.array([float(name == config.start_feature) for name in config.features])
        options = {"popsize": config.population, "seed": config.seed + 1, "verbose": -9, "CMA_diagonal": False}
        self._search = cma.CMAEvolutionStrategy(start, config.sigma, options)
        rank = RankConfig(
            pruned_share=",".join(map(str, config.pruned_share)),
            rounds=",".join(map(str, config.rounds)),
            reference=config.reference,
        )
        models = words(config.model_name)
        if not models:
            raise InputError("model_name is empty: give at least one language model")
        obs = any(name.startswith("obs") for name in config.features)
        settings = replace(config.settings, flop_price=4.0, max_sparsity=1.0, obs_signal=obs)
        self._stage = Stage(models, settings, rank)

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
            InputError: If the history belongs to other arguments, or cannot be read.
        """
        path = self.folder / HISTORY
        if not path.exists():
            return
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            generations = [Generation(**each) for each in data["generations"]]
            compared = (name for name in flat(self.config) if name != "generations")
            changed = first_change(self.config, data["config"], compared)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{str(path)!r} is not the history of a search: choose another --output_dir") from error
        if changed is not None:
            name, theirs, mine = changed
            raise InputError(
                f"{str(path)!r} was made with {name} {theirs!r}, not {mine!r}: choose another --output_dir"
            )
        for generation in generations:
            self._search.tell(self._search.ask(), generation.fitness)
        self.history = generations
        if generations:
            self.controller().save(self.folder / CONTROLLER)  # a kill may have come between the history and it

    def run(self, report: Callable[[int, dict[str, float]], None] | None = None) -> ANNController:
        """Play the generations that are left; the folder holds history and controller after each.

        Args:
            report: Called with environment steps and metrics after each generation.
        """
        with Progress("searching", self.config.generations, start=len(self.history)) as progress:
            while len(self.history) < self.config.generations:
                metrics = self.advance()
                progress.advance(1, best=metrics["es/best"], mean=metrics["es/mean"])
                if report is not None:
                    report(self.steps, metrics)
        return self.controller()

    def advance(self) -> dict[str, float]:
        """Play one generation and save; returns its metrics."""
        candidates = self._search.ask()
        told = self._play(np.array(candidates), self.scenarios(len(self.history)))
        self._search.tell(candidates, told.fitness)
        self.history.append(told)
        self.save()
        return {
            "es/best": min(told.fitness),
            "es/mean": float(np.mean(told.fitness)),
            "es/sigma": float(self._search.sigma),
        }

    def scenarios(self, generation: int) -> list[Scenario]:
        """What a generation plays: models in turn, shares spread over the range, everything else by the seed."""
        random, count = np.random.default_rng([self.config.seed, generation]), self.config.scenarios
        return self._stage.draw_all(random, generation * count, count)

    def controller(self) -> ANNController:
        """The present mean as a controller."""
        network = HeadNetwork(NetworkConfig(head_features=tuple(self.config.features), context="linear"))
        with torch.no_grad():
            network.linear.weight.zero_()
            network.linear.bias.zero_()
            network.linear.weight[KEEP] = torch.tensor(self.weights, dtype=torch.float32)
        info = {"agent": "cma_es", "global_step": self.steps, "config": plain(self.config)}
        return ANNController(network.eval(), info=info)

    def save(self) -> None:
        """Write history and controller."""
        data = {"config": plain(self.config), "generations": [asdict(generation) for generation in self.history]}
        write_text(self.folder / HISTORY, json.dumps(data, indent=1))
        self.controller().save(self.folder / CONTROLLER)

    def _play(self, candidates: np.ndarray, scenarios: list[Scenario]) -> Generation:
        """Fitness of (P, F) candidates."""
        ratios, steps = [], 0
        for scenario in scenarios:
            played = self._stage.play(scenario, lambda seen: self._scores(seen, candidates), len(candidates))
            ratios.append(played.rises / self._stage.unit(scenario))
            steps += scenario.rounds * len(candidates)
        steps, self._stage.reference_steps = steps + self._stage.reference_steps, 0
        return Generation([float(value) for value in np.mean(ratios, 0)], steps)

    def _scores(self, observations: Observation, candidates: np.ndarray) -> np.ndarray:
        importance = np.einsum("pnf,pf->pn", observations["heads"][:, :, self._columns].astype(np.float64), candidates)
        active = observations["heads"][:, :, head_columns(("active",))[0]] > 0.5
        return np.stack([as_scores(row, kept) for row, kept in zip(importance, active, strict=True)])
