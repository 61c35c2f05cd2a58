"""The language models that the package ships: their names, their cards, where they lie."""

from __future__ import annotations

import json
from typing import Any

from plasticity_env.common.errors import unknown
from plasticity_env.common.files import ZOO_FOLDER

MODELS_FOLDER = ZOO_FOLDER / "models"


def embedded_models() -> list[str]:
    """Names of the language models that the package ships."""
    return sorted(config.parent.name for config in MODELS_FOLDER.glob("*/config.json"))


def model_card(name: str) -> dict[str, Any]:
    """The card of an embedded model: parameters, training, test perplexity, whether it is held out.

    Raises:
        InputError: If it is no embedded model.
    """
    if name not in embedded_models():
        raise unknown("embedded model", name, embedded_models())
    card: dict[str, Any] = json.loads((MODELS_FOLDER / name / "card.json").read_text(encoding="utf-8"))
    return card
