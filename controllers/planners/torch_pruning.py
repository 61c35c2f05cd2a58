"""Other people's pruning as planners, for comparison at equal heads removed and with the same repair."""

from __future__ import annotations

from torch import Tensor

from plasticity_env.common.errors import InputError
from plasticity_env.controllers.planners.searches import without
from plasticity_env.controllers.planners.taylor import taylor_importance
from plasticity_env.controllers.planners.trials import Planner, Trials


class TorchPruning(Planner):
    """torch-pruning (https://github.com/VainF/Torch-Pruning, extra ``bench``): heads by its Taylor importance, ranked globally.

    One pass of gradients on the calibration blocks of the dense model, then the least important heads of the whole model go
    at once. With grouped queries torch-pruning itself would remove equally many of each group; here its ranking alone counts,
    which leaves it the freer choice.
    """

    name = "torch_pruning"

    def search(self, trials: Trials) -> Tensor:
        if trials.heads < trials.start.shape[1]:
            raise InputError("torch_pruning removes heads: make the environment with units='heads'")
        importance = taylor_importance(*trials.slopes())
        active = trials.start
        for unit in importance.flatten().argsort(stable=True).tolist():
            if bool(active.flatten()[unit]) and trials.fits(without(active, unit)):
                active = without(active, unit)
        return active
