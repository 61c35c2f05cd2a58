"""Thresholds of the classic rule, searched for by CMA-ES (`cma`) on the training models: the rule at its best.

All candidates of all generations play the same scenarios of ``plasticity/HeadRank-v1`` (model, share, rounds, blocks), each
in its own environment of one batch: scenarios differ more than thresholds do, and fresh ones each time would drown them. A
candidate is told the rise of the loss that it ends with, over the one of a reference rule on the same scenario, so that easy
and hard scenarios count alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from plasticity_env.agents.ppo.rank_config import RankConfig
from plasticity_env.agents.ppo.scenarios import Scenario, Stage, choose_by
from plasticity_env.agents.studies.tuning_config import TuningConfig
from plasticity_env.common.arguments import plain
from plasticity_env.common.cli import words
from plasticity_env.common.errors import InputError
from plasticity_env.common.packages import require
from plasticity_env.common.progress import Progress
from plasticity_env.controllers.rules import PlasticityController
from plasticity_env.controllers.tuned_rule import save_tuned


@dataclass(frozen=True)
class Tuned:
    """What a search found.

    Attributes:
        options: Options of `PlasticityController`.
        ratio: Rise of the loss over the reference's, mean over scenarios that had no say; below 1 is better.
        classic_ratio: The same of the rule's defaults.
        best: Fitness of each generation's best candidate, on the search's scenarios.
        steps: Environment steps, the reference's included.
    """

    options: dict[str, Any]
    ratio: float
    classic_ratio: float
    best: list[float]
    steps: int


def options_at(point: np.ndarray) -> dict[str, Any]:
    """Options of `PlasticityController` at a point of the unit cube that is searched.

    Args:
        point: (7,) in [0, 1]: direction of the entropy (thirds: low, auto, high), aggressiveness, the gradient's power
            (1/4 to 4), entropy's weight in the order (0 to 2), decisions that are averaged (1 to 4), decisions that a head
            rests at least (0 to 4), and whether heads are revived at all.
    """
    direction, share, power, weight, history, rest, revives = (float(min(1.0, max(0.0, value))) for value in point)
    return {
        "prune_entropy": ("low", "auto", "high")[min(2, int(3 * direction))],
        "aggressiveness": round(share, 4),
        "gradient_power": round(4.0 ** (2 * power - 1), 4),
        "entropy_weight": round(2 * weight, 4),
        "history": 1 + min(3, int(4 * history)),
        "min_zeroed_epochs": min(4, int(5 * rest)),
        "revives": revives > 0.5,
    }


START = np.array([0.5, 0.4, 0.5, 0.1, 0.3, 0.5, 0.6])  # near the rule's defaults


class ThresholdSearch:
    """The search.

    Args:
        config: Arguments.

    Raises:
        InputError: A model, text or setting that cannot be used.
    """

    def __init__(self, config: TuningConfig) -> None:
        self.config = config
        rank = RankConfig(pruned_share=config.pruned_share, rounds=config.rounds, reference=config.reference)
        models = words(config.model_name)
        if not models:
            raise InputError("model_name is empty: give at least one language model")
        self._stage = Stage(models, replace(config.settings, flop_price=4.0, max_sparsity=1.0), rank)
        self.steps = 0

    def run(self, report: Callable[[int, dict[str, float]], None] | None = None) -> Tuned:
        """Search; choose among the search's last mean, its best and the rule's defaults; compare with the defaults.

        The choice counts further scenarios beside those of the search, the comparison is on others again.

        Args:
            report: Called with environment steps and metrics after each generation.
        """
        require("cma", "rl")
        import cma

        config = self.config
        best: list[float] = []
        record: tuple[float, dict[str, Any]] = (math.inf, {})
        scenarios = self._scenarios(0, config.scenarios)
        options = {"popsize": config.population, "seed": config.seed + 1, "verbose": -9, "bounds": [0.0, 1.0]}
        search = cma.CMAEvolutionStrategy(START, config.sigma, options)
        with Progress("tuning", config.generations) as progress:
            for _ in range(config.generations):
                points = search.ask()
                rules = [options_at(np.asarray(point)) for point in points]
                fitness = self._ratios(rules, scenarios).mean(0)
                search.tell(points, fitness.tolist())
                best.append(float(fitness.min()))
                record = min(record, (best[-1], rules[int(fitness.argmin())]), key=lambda pair: pair[0])
                metrics = {"tuning/best": best[-1], "tuning/mean": float(fitness.mean())}
                progress.advance(1, best=best[-1], mean=metrics["tuning/mean"])
                if report is not None:
                    report(self.steps, metrics)
        candidates: list[dict[str, Any]] = [{}, options_at(np.asarray(search.mean)), record[1]]
        chosen = self._ratios(candidates, scenarios + self._scenarios(1, config.validation)).mean(0)
        kept = candidates[int(chosen.argmin())]
        ratio, classic = self._ratios([kept, {}], self._scenarios(2, config.validation)).mean(0).tolist()
        return Tuned(kept, ratio, classic, best, self.steps)

    def _scenarios(self, use: int, count: int) -> list[Scenario]:
        """Scenarios of the search (0), of the choice (1) or of the comparison (2); every model meets small and large shares."""
        random = np.random.default_rng([self.config.seed, use])
        models, found = len(self._stage.models), []
        for place in range(count):
            lap = place // models * models
            back = lap + min(lap + models, count) - 1 - place  # every other lap in reverse
            where = back if place // models % 2 else place
            found.append(self._stage.draw(random, place, count, where))
        return found

    def _ratios(self, rules: list[dict[str, Any]], scenarios: list[Scenario]) -> np.ndarray:
        """(scenarios, rules) rise of the loss over the reference's."""
        before, found = self._stage.reference_steps, []
        for scenario in scenarios:
            members = [PlasticityController(**rule) for rule in rules]
            for member in members:
                member.reset(0)
            rises = self._stage.play(scenario, choose_by(members), len(members)).rises
            found.append(rises / self._stage.unit(scenario))
            self.steps += scenario.rounds * len(members)
        self.steps += self._stage.reference_steps - before
        return np.stack(found)


def save(path: Path, config: TuningConfig, found: Tuned) -> None:
    """Write what was found where ``controllers.make("plasticity_tuned")`` reads it."""
    info = {
        "agent": "cma_es",
        "loss_rise_over_reference": round(found.ratio, 4),
        "of_the_defaults": round(found.classic_ratio, 4),
        "environment_steps": found.steps,
        "config": plain(config),
    }
    if not all(math.isfinite(value) for value in (found.ratio, found.classic_ratio)):
        raise InputError("the search met no finite loss: choose other models or a smaller pruned_share")
    save_tuned(path, found.options, info)
