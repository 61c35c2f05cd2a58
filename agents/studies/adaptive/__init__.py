"""Adaptive plasticity: heads that go and return while the model learns, against controls at equal training and FLOPs.

>>> from plasticity_env.agents.studies.adaptive import Setting, make_arm, run_study
"""

from plasticity_env.agents.studies.adaptive.study import run_study
from plasticity_env.agents.studies.adaptive.study_arms import ARMS, Arm, make_arm
from plasticity_env.agents.studies.adaptive.study_cells import Cell, Setting, StageRecord, read_cells

__all__ = ["ARMS", "Arm", "Cell", "Setting", "StageRecord", "make_arm", "read_cells", "run_study"]
