"""Adaptive plasticity: heads that go and return while the model learns, against controls at equal training and FLOPs.

>>> from agents.adaptive import Setting, make_arm, run_study
"""

from agents.adaptive.arms import ARMS, Arm, make_arm
from agents.adaptive.cells import Cell, Setting, StageRecord, read_cells
from agents.adaptive.study import run_study

__all__ = ["ARMS", "Arm", "Cell", "Setting", "StageRecord", "make_arm", "read_cells", "run_study"]
