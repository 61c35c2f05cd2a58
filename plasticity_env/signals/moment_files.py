"""Moments of calibration texts in a folder, so that other processes, seeds and players need not gather them again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from plasticity_env.common.errors import InputError, first_line
from plasticity_env.common.files import replace_file
from plasticity_env.model.guards import raw_state
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.signals.moments import Moments

DIGEST = "sha256"  # of all numbers, in the header


class MomentFiles:
    """One safetensors file a text, named by a digest of weights and tokens.

    Args:
        folder: Folder of the files, made when the first one is written.
        model: Model whose dense stream it is.
    """

    def __init__(self, folder: Path, model: PlasticModel) -> None:
        self._folder, self._model = folder, model
        self._weights: tuple[int, str] | None = None  # version and digest

    def get(self, ids: Tensor) -> dict[int, Moments] | None:
        """Moments of one text by site, ``gram`` (I, I) and ``mean`` (I,) float64; None where its file is not there.

        Args:
            ids: (B, T) token ids.

        Raises:
            InputError: The file is damaged.
        """
        path = self._path(ids)
        if not path.is_file():
            return None
        try:
            with safe_open(path, "pt", device="cpu") as file:
                held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
                said = (file.metadata() or {}).get(DIGEST)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{str(path)!r} is damaged ({first_line(error)}): delete it") from error
        if said != tensors_digest(held):
            raise InputError(f"{str(path)!r} is damaged: it is not what was written (its digest differs): delete it")
        sites = [int(name.removeprefix("mean.")) for name in held if name.startswith("mean.")]
        return {site: Moments(_square(held[f"gram.{site}"]), held[f"mean.{site}"]) for site in sorted(sites)}

    def put(self, ids: Tensor, moments: Mapping[int, Moments]) -> None:
        """Write the moments of one text, the upper triangles of its matrices.

        Raises:
            OSError: Nothing can be written there.
        """
        held = {}
        for site, of in moments.items():
            down, across = torch.triu_indices(len(of.gram), len(of.gram))
            held[f"gram.{site}"] = of.gram.cpu()[down, across].contiguous()
            held[f"mean.{site}"] = of.mean.cpu().contiguous()
        replace_file(self._path(ids), lambda path: save_file(held, path, metadata={DIGEST: tensors_digest(held)}))

    def _path(self, ids: Tensor) -> Path:
        version = self._model.weight_version
        if self._weights is None or self._weights[0] != version:
            self._weights = version, weights_digest(self._model)
        sites = [site.index for site in self._model.sites if site.gated]
        text = hashlib.sha256(f"{self._weights[1]} {sites} {tuple(ids.shape)} ".encode())
        text.update(ids.cpu().contiguous().numpy().tobytes())
        return self._folder / f"moments-{text.hexdigest()[:32]}.safetensors"


def weights_digest(model: PlasticModel) -> str:
    """SHA-256 of a model's present weights and their names."""
    digest = hashlib.sha256()
    for name, value in raw_state(model.model).items():
        digest.update(name.encode())
        digest.update(_bytes(value))
    return digest.hexdigest()


def _square(triangle: Tensor) -> Tensor:
    size = int((2 * len(triangle)) ** 0.5)
    down, across = torch.triu_indices(size, size)
    gram = torch.empty(size, size, dtype=triangle.dtype)
    gram[down, across] = triangle
    gram[across, down] = triangle
    return gram


def tensors_digest(held: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors and their names, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(held):
        digest.update(name.encode())
        digest.update(_bytes(held[name]))
    return digest.hexdigest()


def _bytes(value: Tensor) -> memoryview:
    return memoryview(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
