"""The plasticity cycle as an experiment: train, prune, measure, grow, learn, beside a control arm."""

from plasticity_env.cycle.controller_decider import ControllerDecider, observe
from plasticity_env.cycle.deciders import Decider, Decision, Situation, StrategyDecider
from plasticity_env.cycle.experiment import NeuralPlasticityExperiment
from plasticity_env.cycle.page.run_page import write_pages
from plasticity_env.cycle.record import RunRecord, RunWriter
from plasticity_env.cycle.run_settings import ExperimentSettings

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
