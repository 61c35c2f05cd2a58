"""The plasticity cycle as an experiment: train, prune, measure, grow, learn, beside a control arm."""

from plasticity_env.experiment.control import ControllerDecider, observe
from plasticity_env.experiment.deciders import Decider, Decision, Situation, StrategyDecider
from plasticity_env.experiment.experiment import NeuralPlasticityExperiment
from plasticity_env.experiment.page import write_pages
from plasticity_env.experiment.record import RunRecord, RunWriter
from plasticity_env.experiment.settings import ExperimentSettings

__all__ = [
    "ControllerDecider",
    "Decider",
    "Decision",
    "ExperimentSettings",
    "NeuralPlasticityExperiment",
    "RunRecord",
    "RunWriter",
    "Situation",
    "StrategyDecider",
    "observe",
    "write_pages",
]
