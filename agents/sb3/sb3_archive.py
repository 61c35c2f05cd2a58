"""Reads the controller out of an archive that Stable-Baselines3's ``save`` wrote, and runs none of the code in it.

Stable-Baselines3's own ``load`` unpickles whatever an archive holds. Here only the weights (a tensors-only file) and the
network's configuration are read; its pickle may name nothing but the classes of `_ALLOWED`, under today's module or a former
one, and bare values stand in their place.
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from plasticity_env.agents.sb3.sb3 import HeadExtractor
from plasticity_env.common.errors import InputError, first_line
from plasticity_env.common.moved import moved
from plasticity_env.common.values import user_path
from plasticity_env.controllers.ann import ANNController
from plasticity_env.controllers.network import HeadNetwork, NetworkConfig

_ALLOWED = {(kind.__module__, kind.__qualname__) for kind in (HeadExtractor, NetworkConfig)}
_NETWORK = "features_extractor.network."  # where the policy's state holds it
_DAMAGE = (OSError, EOFError, KeyError, TypeError, ValueError, RuntimeError, AttributeError, ImportError, IndexError)


def load_archive(path: str | Path) -> ANNController:
    """The controller inside a saved algorithm; pass its ``network`` to `sb3.build` to go on training.

    Args:
        path: The ``.zip`` file.

    Returns:
        The controller, which fits models of any size.

    Raises:
        InputError: There is no such file, it is damaged, or it was not saved from an algorithm of `sb3.build`.
    """
    path = user_path(path, "a saved algorithm")
    try:
        with zipfile.ZipFile(path) as archive:
            pickled = json.loads(archive.read("data"))["policy_kwargs"][":serialized:"]
            weights = torch.load(io.BytesIO(archive.read("policy.pth")), map_location="cpu", weights_only=True)
        arguments = _Reader(io.BytesIO(base64.b64decode(pickled))).load()
        config = NetworkConfig.from_json(vars(arguments["features_extractor_kwargs"]["config"]))
        network = HeadNetwork(config)
        own = {name.removeprefix(_NETWORK): value for name, value in weights.items() if name.startswith(_NETWORK)}
        network.load_state_dict(own)
    except (*_DAMAGE, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{str(path)!r} holds no controller ({first_line(error)}): give an archive that an algorithm of sb3.build saved"
        ) from error
    return ANNController(network)


class _Reader(pickle.Unpickler):
    """Puts bare values in the place of the classes of a policy's arguments, and refuses all other names."""

    def find_class(self, module: str, name: str) -> Any:
        if (moved(module), name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return SimpleNamespace
