"""Repair: let the units that stay make up for those that go, without training."""

from plasticity_env.repair.methods import METHODS, bias, least_squares, scale
from plasticity_env.repair.parallel import repair_sites
from plasticity_env.repair.registry import REPAIRS, Repair, find_repair, register_repair
from plasticity_env.repair.sequential import repair_in_order
from plasticity_env.signals.batched_model import Projection
from plasticity_env.signals.batched_model import Projection as Change
from plasticity_env.signals.linalg import RIDGE
from plasticity_env.signals.moments import Moments, Statistics

__all__ = [
    "METHODS",
    "REPAIRS",
    "RIDGE",
    "Change",
    "Moments",
    "Projection",
    "Repair",
    "Statistics",
    "bias",
    "find_repair",
    "least_squares",
    "register_repair",
    "repair_in_order",
    "repair_sites",
    "scale",
]
