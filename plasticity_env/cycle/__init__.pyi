"""The names of `plasticity_env.cycle`, and the files that they come from."""

from .controller_decider import ControllerDecider as ControllerDecider
from .controller_decider import observe as observe
from .deciders import Decider as Decider
from .deciders import Decision as Decision
from .deciders import Situation as Situation
from .deciders import StrategyDecider as StrategyDecider
from .experiment import NeuralPlasticityExperiment as NeuralPlasticityExperiment
from .page.run_page import write_pages as write_pages
from .record import RunRecord as RunRecord
from .record import RunWriter as RunWriter
from .run_settings import ExperimentSettings as ExperimentSettings
