"""Parallel repair: every site on its own, from statistics of the dense stream."""

from __future__ import annotations

from collections.abc import Iterable

from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.repair.methods import METHODS
from plasticity_env.signals.linalg import RIDGE
from plasticity_env.signals.moments import Moments, Statistics


def repair_sites(
    model: PlasticModel, method: str, statistics: Statistics, sites: Iterable[int] | None = None, ridge: float = RIDGE
) -> None:
    """Repair some sites of a model for its present mask.

    Args:
        model: Its active mask is what is repaired for; repairs that the sites carry are taken back first.
        method: Name in `METHODS`.
        statistics: Of the dense model; sites that it lacks are left as they are.
        sites: Indices in ``model.sites``; None for all. Sites with all units active are left as they are.
        ridge: lambda as a share of the mean diagonal.

    Raises:
        InputError: Statistics that are not finite or too short for the ridge; the model is untouched.
    """
    statistics.check(ridge)
    active, changes = model.active, {}
    chosen = list(statistics.sites if sites is None else sites)
    model.undo_repair(chosen)
    for index in chosen:
        site = model.sites[index]
        kept = site.kept_inputs(active)
        if bool(kept.all()) or index not in statistics.sites:
            continue
        weight = site.output_weight()
        moments = statistics.sites[index]
        moved = Moments(moments.gram.to(weight.device), moments.mean.to(weight.device))
        changes[index] = METHODS[method](weight, moved, kept.to(weight.device), site.unit_width, ridge)
    for index, change in changes.items():
        if change.weight is not None or change.bias is not None:
            model.apply_repair(index, change.weight, change.bias)
