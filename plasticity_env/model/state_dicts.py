"""What a wrapped model's ``state_dict`` says beside the stock weights, so that a file of it is the model that was measured.

Stock names hold the masked weights. The mask, and what it took out of them, have names that begin with ``plasticity.``:
`PlasticModel.load_state_dict` brings both back, so that training that is resumed from such a file goes on as if it had not
stopped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from plasticity_env.common.errors import InputError
from plasticity_env.model.gated_model import GatedModel
from plasticity_env.model.guards import masked_weights, raw_state
from plasticity_env.model.unit_weights import UnitWeights, read_saved

PREFIX = "plasticity."


def read_gates(said: Mapping[str, Any], model: GatedModel) -> tuple[Tensor, Tensor, Tensor]:
    """Mask, scales and warm-ups, from values under the names ``active``, ``scale`` and ``warmup``.

    Raises:
        InputError: They are not of the model's shape, or say what no model can be in.
    """
    active, scale, warmup = (torch.as_tensor(said[name]).cpu() for name in ("active", "scale", "warmup"))
    if tuple(active.shape) != model.shape or scale.shape != active.shape or warmup.shape != (2, *active.shape):
        raise InputError(f"its mask is {tuple(active.shape)}, its model has {model.shape}")
    if not bool(((active == 0) | (active == 1)).all()) or not bool(active[:, : model.heads].any()):
        raise InputError("its mask must hold zeros and ones, with one active head at least")
    if not bool(((scale > 0) & (scale <= 1)).all()):
        raise InputError("its scales must lie in (0, 1]")
    if not bool(torch.isfinite(warmup).all() and (warmup[0] >= 0).all() and (warmup[0] <= warmup[1]).all()):
        raise InputError("its warm-ups must be finite, with no more steps taken than there are in total")
    return active.bool(), scale.float(), warmup.float()


def marked_state(model: GatedModel, warmup: Tensor, units: UnitWeights) -> dict[str, Tensor]:
    """Masked weights under stock names; where a gate is not fully open, also the mask and what it took out of them.

    No two entries share memory (tied weights are copied), so that safetensors writes them.

    Args:
        model: The wrapped model.
        warmup: (2, L, U) warm-up steps taken and in total.
        units: Weights of the units.
    """
    state, gates, seen = masked_weights(model.model), model.gates, set()
    for name, value in state.items():
        if (place := value.data_ptr()) in seen:
            state[name] = value.clone()
        seen.add(place)
    if bool((gates == 1).all()):
        return state
    said = {"active": model.active, "scale": model.scale, "warmup": warmup.clone(), **units.put_aside(gates)}
    return state | {PREFIX + name: value for name, value in said.items()}


def split_state(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Stock entries of a state_dict, and without their prefix those that `marked_state` added."""
    stock = {name: value for name, value in state.items() if not name.startswith(PREFIX)}
    return stock, {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}


def check_marks(said: Mapping[str, Tensor], stock: Mapping[str, Any], model: GatedModel, units: UnitWeights) -> None:
    """Refuse what `marked_state` did not write for a model like this one, before anything is changed.

    Raises:
        InputError: The mask is of another shape or damaged, weights of a unit are missing, or a repair added biases.
    """
    try:
        active, scale, _ = read_gates(said, model)
        saved = read_saved(said)
        places = []
        for layer, unit in (active * scale != 1).nonzero().tolist():
            places.append((said[f"rows.{layer}.{unit}"], units.pieces(layer, unit, "unit")[-1].data))
        for layer, unit in (~active).nonzero().tolist():
            if (layer, unit, "unit") not in saved:
                raise InputError(f"the saved weights of unit {unit} of layer {layer} are missing")
        for key, tensors in saved.items():
            places += zip(tensors, [piece.data for piece in units.all_pieces(*key)], strict=True)
        if any(tensor.shape != place.shape for tensor, place in places):
            raise InputError("the weights of a unit have another size")
    except (InputError, KeyError, IndexError, ValueError) as error:
        raise InputError(
            f"these weights come with a mask that does not fit this model ({error}): load them into a model, and with the "
            "units (mlp_blocks), that they were saved from"
        ) from error
    if unknown := sorted(set(stock) - set(raw_state(model.model))):
        raise InputError(
            f"these weights hold what a repair added ({unknown[0]}), for which this model has no place: keep repaired models "
            "with plasticity_env.save_plastic, or undo_repair() first"
        )
