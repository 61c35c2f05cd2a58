"""Parallel repair: every site on its own, from statistics of the dense stream."""

from __future__ import annotations

from collections.abc import Iterable

from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.repair.methods import Method, find_method
from plasticity_env.signals.batched_model import Projection
from plasticity_env.signals.linalg import RIDGE
from plasticity_env.signals.moments import Moments, Statistics


def repair_sites(
    model: PlasticModel,
    method: str | Method,
    statistics: Statistics,
    sites: Iterable[int] | None = None,
    ridge: float = RIDGE,
) -> None:
    """Repair some sites of a model for its present mask.

    Args:
        model: Its active mask is what is repaired for; repairs that the sites carry are taken back first.
        method: Name in `METHODS`, or a function like these.
        statistics: Statistics of the dense model; sites that it lacks are left as they are.
        sites: Indices in ``model.sites``; None for all. Sites with all units active are left as they are.
        ridge: lambda as a share of the mean diagonal.

    Raises:
        InputError: Statistics that are not finite or too short for the ridge; the model is untouched.
    """
    statistics.check(ridge)
    chosen = list(statistics.sites if sites is None else sites)
    changes = {}
    with model.repairs_kept_on_failure():
        model.undo_repair(chosen)
        for index in chosen:
            site = model.sites[index]
            kept = site.kept_inputs(model.active)[None]
            if index in statistics.sites and not bool(kept.all()):
                of = statistics.sites[index]
                moments = Moments(of.gram[None].to(model.device), of.mean[None].to(model.device))
                changes[index] = find_method(method)(site.output_weight(), moments, kept, site.unit_width, ridge)
        for index, change in changes.items():
            carry(model, index, change)


def carry(model: PlasticModel, site: int, change: Projection) -> None:
    """Put the repair of a single mask onto a model that carries this mask."""
    model.apply_repair(site, *(None if part is None else part[0] for part in (change.weight, change.bias)))
