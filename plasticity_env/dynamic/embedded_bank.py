"""Banks that the package ships for embedded models of several kinds of text."""

from __future__ import annotations

from pathlib import Path

from plasticity_env.common.errors import unknown
from plasticity_env.common.files import ZOO_FOLDER
from plasticity_env.dynamic.bank import StructureBank
from plasticity_env.model.plastic_model import PlasticModel

BANKS = ZOO_FOLDER / "banks"


def embedded_bank(name: str, model: PlasticModel) -> tuple[StructureBank, Path]:
    """The bank of an embedded model, and the folder of a router that was trained for it.

    Args:
        name: Name of the model, for example ``"mixed-llama-4x8"``.
        model: The model itself.

    Returns:
        The bank, and what ``plasticity_env.controllers.routers.LearnedRouter.load`` reads.

    Raises:
        InputError: The package has no bank of a model of this name, or the model is another one.
    """
    names = sorted(path.name for path in BANKS.iterdir() if path.is_dir())
    if name not in names:
        raise unknown("model with an embedded bank", name, names)
    return StructureBank.load(BANKS / name / "bank", model), BANKS / name / "router"
