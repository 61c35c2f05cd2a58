"""OSSCAR's pruning: every layer gives up the same share, and a local search swaps units in and out of what goes.

Meng et al. 2024, "OSSCAR: One-Shot Structured Pruning in Vision and Language Models with Combinatorial Optimization"
(arXiv 2403.12983).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from plasticity_env.common.errors import InputError
from plasticity_env.controllers.planners.trials import Planner, Trials
from plasticity_env.model.layouts import Site
from plasticity_env.strategies.level_choice import nearest_levels
from plasticity_env.strategies.output_errors import OutputErrors

LEAST_GAIN = 1e-9  # of an error, below which a swap gains nothing


class Osscar(Planner):
    """All sites give up the same share of their units, each those without which its refitted output loses least.

    A site begins with the first units of the order in which its output loses least. Then the pair of a unit that comes back and
    one that goes in its place is swapped whose error is lowest, as long as it falls. Errors are squared errors of the
    output, on text that the refit has not read. The share of a site is the nearest at which the model prunes exactly what
    levels can reach. The paper's search moves several units at a time in layers of thousands.
    """

    name = "osscar"

    def search(self, trials: Trials) -> Tensor:
        table, room = trials.levels(of_outputs=True)
        share = room.due / table.whole
        asked = np.clip(np.round(share * table.deepest).astype(int), room.lowest, room.highest)
        active = table.mask(nearest_levels(table, asked, room))
        if not trials.fits(active):
            raise InputError("osscar's shares break max_sparsity: raise it, or ask for a smaller share")
        errors = trials.output_errors()
        for site in trials.sites:
            active = self._swapped(site, active, errors, trials)
        return active

    def _swapped(self, site: Site, active: Tensor, errors: OutputErrors, trials: Trials) -> Tensor:
        """The mask after all swaps within one site that gain something."""
        while True:
            gone = ~active[site.layer, site.columns]
            back, away = self._pairs(site, gone, trials)
            if not len(back):
                return active
            tried = gone.expand(len(back), -1).clone()
            every = torch.arange(len(back))
            tried[every, back], tried[every, away] = False, True
            found = errors.of(site, torch.cat([gone[None], tried])).cpu()
            for number in found[1:].argsort(stable=True).tolist():
                if float(found[1 + number]) >= float(found[0]) * (1 - LEAST_GAIN):
                    return active
                swapped = active.clone()
                swapped[site.layer, site.columns] = ~tried[number]
                if trials.fits(swapped) and trials.spent(swapped) == trials.spent(active):
                    active = swapped
                    break
            else:
                return active

    def _pairs(self, site: Site, gone: Tensor, trials: Trials) -> tuple[Tensor, Tensor]:
        """Units that may come back, and units that may go in their place."""
        free = gone if trials.revives else gone & trials.start[site.layer, site.columns]
        back, away = free.nonzero().flatten(), (~gone).nonzero().flatten()
        return back.repeat_interleave(len(away)), away.repeat(len(back))
