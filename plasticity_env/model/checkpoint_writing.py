"""Writing a checkpoint of a pruned model: `save_plastic` and ``PlasticModel.save_pretrained(..., plastic=True)`` end here.

What lies in it is said in `plasticity_env.model.checkpoints`, which reads it.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from plasticity_env.common.digests import write_manifest
from plasticity_env.common.errors import InputError
from plasticity_env.common.files import new_folder, replace_file, write_text
from plasticity_env.common.values import user_path
from plasticity_env.model.applied_repairs import OutputRepair
from plasticity_env.model.guards import masked_weights
from plasticity_env.model.layouts import Site
from plasticity_env.model.loading_remarks import without_bars
from plasticity_env.model.modes import PruningMode
from plasticity_env.model.snapshots import Snapshot
from plasticity_env.model.unit_weights import UnitWeights

FORMAT = 1
DESCRIPTION, TENSORS, TRAINING = "plastic.json", "plastic.safetensors", "training.pt"
SUFFIXES = (".pth", ".pt")
PARTS = ("base", "weight", "bias", "base_bias")


class Kept(Protocol):
    """What a checkpoint keeps of a `PlasticModel`."""

    mode: PruningMode
    mlp_blocks: int
    neuron_order: str
    skip_flops: float
    sites: list[Site]
    unit_weights: UnitWeights

    @property
    def model(self) -> nn.Module: ...
    @property
    def config(self) -> Any: ...
    @property
    def gates(self) -> Tensor: ...
    @property
    def weight_version(self) -> int: ...
    def snapshot(self, weights: bool = True) -> Snapshot: ...
    def refuse_if_retired(self) -> None: ...


@dataclass(frozen=True)
class Contents:
    """What a checkpoint holds.

    Attributes:
        description: JSON-able: format, name, mode, mask, scales, warm-ups, which repairs.
        weights: Stock names; rows of units whose gate is not 1 are multiplied by it.
        aside: What the weights do not say: present rows, saved weights, repairs.
    """

    description: dict[str, Any]
    weights: dict[str, Tensor]
    aside: dict[str, Tensor]


def is_checkpoint(path: str | Path) -> bool:
    """Whether a path looks like something that `save_plastic` wrote."""
    path = user_path(path, "a checkpoint")
    return (path / DESCRIPTION).is_file() or (path.suffix in SUFFIXES and path.is_file())


def write_plastic(
    model: Kept,
    path: str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    name: str | None = None,
    *,
    notes: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
) -> None:
    """Arguments and errors of `plasticity_env.save_plastic`."""
    model.refuse_if_retired()
    if model.skip_flops:
        raise InputError(
            "a checkpoint has no place for U-Net skips: save skip.state_dict() and call skip.remove() first"
        )
    path = user_path(path, "a checkpoint")
    contents = _contents(model, name, tokenizer is not None)
    if notes:
        contents.description["notes"] = notes
    if path.suffix in SUFFIXES:
        if path.is_dir():
            raise InputError(f"{str(path)!r} is a folder: leave out {path.suffix}, or choose another file name")
        whole = {
            "plastic": contents.description,
            "weights": {key: value.cpu() for key, value in contents.weights.items()},
            "aside": {key: value.cpu() for key, value in contents.aside.items()},
            "files": _small_files(model, tokenizer),
            **({} if training is None else {"training": training}),
        }
        replace_file(path, lambda temporary: torch.save(whole, temporary))
        return
    with new_folder(path, replace=is_checkpoint(path)) as folder:
        with without_bars():
            model.model.save_pretrained(folder, state_dict=contents.weights)  # type: ignore[operator]
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        save_file({key: value.cpu().contiguous() for key, value in contents.aside.items()}, folder / TENSORS)
        if training is not None:
            torch.save(training, folder / TRAINING)
        write_text(folder / DESCRIPTION, json.dumps(contents.description))
        write_manifest(folder, "*.safetensors", "*.safetensors.index.json", "config.json", DESCRIPTION, TRAINING)


def _contents(model: Kept, name: str | None, tokenizer: bool) -> Contents:
    snapshot = model.snapshot(weights=False)
    repairs = {}
    aside: dict[str, Tensor] = {}
    for site, repair in snapshot.repairs.items():
        current = repair.version == model.weight_version
        repairs[str(site)] = {"current": current}
        aside |= {f"repair.{site}.{part}": t for part in PARTS if (t := getattr(repair, part)) is not None}
    weights = masked_weights(model.model)
    names = {id(parameter): key for key, parameter in model.model.named_parameters()}
    aside |= model.unit_weights.put_aside(model.gates)
    for site in _first_biases(snapshot.repairs):  # a name that the stock configuration does not know
        key = names[id(model.sites[site].output.bias)]
        aside[f"bias.{key}"] = weights.pop(key)
    description = {
        "format": FORMAT,
        "tokenizer": tokenizer,
        "name": name or str(model.config.name_or_path) or model.config.model_type,
        "mode": str(model.mode),
        "mlp_blocks": model.mlp_blocks,
        "neuron_order": model.neuron_order,
        "active": snapshot.active.int().tolist(),
        "scale": snapshot.scale.tolist(),
        "warmup": snapshot.warmup.tolist(),
        "repairs": repairs,
    }
    return Contents(description, weights, aside)


def _small_files(model: Kept, tokenizer: PreTrainedTokenizerBase | None) -> dict[str, Tensor]:
    """Configuration and tokenizer as a folder would hold them: file name to bytes."""
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        model.model.generation_config.save_pretrained(folder)  # type: ignore[operator, union-attr]
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        files = {file.name: bytearray(file.read_bytes()) for file in sorted(Path(folder).iterdir())}
    return {name: torch.frombuffer(content, dtype=torch.uint8) for name, content in files.items()}


def _first_biases(repairs: dict[int, OutputRepair]) -> list[int]:
    """Sites whose projection had no bias before its repair."""
    return [site for site, repair in repairs.items() if repair.bias is not None and repair.base_bias is None]
