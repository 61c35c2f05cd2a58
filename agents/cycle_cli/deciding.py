"""Who decides in an experiment, by name: a pruning strategy, the rule of thresholds, or a trained network."""

from __future__ import annotations

from plasticity_env import controllers
from plasticity_env.controllers import ANNController, PlasticityController, RankedController
from plasticity_env.cycle.controller_decider import ControllerDecider
from plasticity_env.cycle.deciders import Decider, Decision, Situation, StrategyDecider
from plasticity_env.cycle.run_settings import CONTROLLER, ExperimentSettings


class RankedDecider(ControllerDecider):
    """A controller that prunes to a share, asked for the share that the experiment wants next."""

    controller: RankedController

    def decide(self, situation: Situation) -> Decision:
        self.controller.sparsity = situation.level
        return super().decide(situation)


def decider_for(settings: ExperimentSettings) -> Decider:
    """Make the decider that the settings name.

    Raises:
        InputError: No such strategy, or no controller in the folder.
    """
    if settings.pruning_strategy != CONTROLLER:
        return StrategyDecider(settings.pruning_strategy, settings.prune_entropy)
    if settings.controller == PlasticityController.name:
        rule = PlasticityController(
            settings.prune_entropy,  # type: ignore[arg-type]
            settings.aggressiveness,
            revives=settings.adaptive,
            **settings.thresholds.options(),
        )
        return ControllerDecider(rule, settings.seed)
    if settings.free_policy:
        return ControllerDecider(_network(settings.controller), settings.seed)
    return RankedDecider(_network(settings.controller, sparsity=settings.level(1)), settings.seed)


def _network(name: str, **options: float) -> ANNController:
    """The shipped controllers by name (``ann``), others by folder."""
    if name.partition(":")[0] != ANNController.name:
        return controllers.load(name, **options)
    found = controllers.make(name, **options)
    assert isinstance(found, ANNController)
    return found
