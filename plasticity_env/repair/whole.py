"""Repair of a whole model for its present mask, by name, from calibration text."""

from __future__ import annotations

from torch import Tensor

from plasticity_env.common.errors import InputError
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.repair.parallel import repair_sites
from plasticity_env.repair.registry import find_repair
from plasticity_env.repair.sequential import repair_in_order
from plasticity_env.signals.measure import gather


def repair_model(model: PlasticModel, name: str, input_ids: Tensor, batch_size: int = 8) -> None:
    """Let the active units make up for the pruned ones.

    Args:
        model: Its mask is what is repaired for; repairs that it carries are taken back first (but by ``"none"``, which does
            nothing).
        name: Name in `REPAIRS`.
        input_ids: (B, T) calibration text.
        batch_size: Sequences in one pass.

    Raises:
        InputError: No such repair, or a text that is too short for it; the model is left as it was.
    """
    repair = find_repair(name)
    if repair.method is None:
        return
    with model.repairs_kept_on_failure():
        model.undo_repair()
        if repair.sequential:
            repair_in_order(model, input_ids, mlp=repair.mlp, weighted=repair.weighted, batch_size=batch_size)
            return
        with model.open_gates():
            statistics = gather(model, input_ids, batch_size)
        try:
            repair_sites(model, repair.method, statistics)
        except InputError as error:
            raise InputError(f"repair {name!r} cannot be computed: {error}") from error
