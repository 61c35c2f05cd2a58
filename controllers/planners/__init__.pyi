"""The names of `plasticity_env.controllers.planners`, and the files that they come from."""

from .planner import MEASURING_PASS as MEASURING_PASS
from .planner import PLANNERS as PLANNERS
from .planner import Bill as Bill
from .planner import Evolution as Evolution
from .planner import Greedy as Greedy
from .planner import LevelKnapsack as LevelKnapsack
from .planner import Osscar as Osscar
from .planner import Planner as Planner
from .planner import SwapSearch as SwapSearch
from .planner import Threshold as Threshold
from .planner import TorchPruning as TorchPruning
from .planner import Trials as Trials
from .planner import ZipLM as ZipLM
from .planner import actions_to as actions_to
from .planner import is_planner as is_planner
from .planner import make_planner as make_planner
from .planner import register_planner as register_planner
