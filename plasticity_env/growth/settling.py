"""The end of a warm-up before its time: where a run is cut, no gate stays half open and the model computes what it did."""

from __future__ import annotations

from dataclasses import replace

import torch

from plasticity_env.model.applied_repairs import OutputRepair
from plasticity_env.model.layouts import Site
from plasticity_env.model.plastic_model import PlasticModel


@torch.no_grad()
def settle_gates(model: PlasticModel) -> None:
    """End every warm-up now: a growing unit's output rows are multiplied by its gate, which then is 1.

    The model's output does not change. Repairs that it carries are scaled alike, so that undoing them later takes back what
    they add now.

    Args:
        model: Edited in place; one without a half-open gate is left as it is.
    """
    gates = model.gates
    growing = model.active & (gates != 1)
    if not bool(growing.any()):
        return
    repairs = model.repairs
    model.undo_repair()
    for index, site in enumerate(model.sites):
        row = torch.where(growing, gates, 1.0)[site.layer, site.columns]
        half_open = (row != 1).nonzero().flatten().tolist()
        for unit in half_open:
            site.output_slice(unit).data.mul_(float(row[unit]))
        if half_open and index in repairs:
            repairs[index] = _scaled(repairs[index], site, row)
    model.weights_changed()
    now = model.snapshot(weights=False)
    ones, zeros = torch.ones_like(now.scale), torch.zeros_like(now.warmup)
    model.restore(replace(now, scale=ones, warmup=zeros, repairs=repairs))


def _scaled(repair: OutputRepair, site: Site, row: torch.Tensor) -> OutputRepair:
    """A repair of a projection whose rows are multiplied by each unit's entry of ``row``."""
    if repair.weight is None:
        return repair
    factors = row.repeat_interleave(site.unit_width)[:, None].to(repair.weight)
    return replace(repair, base=repair.base * factors, weight=repair.weight * factors)
