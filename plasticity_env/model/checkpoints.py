"""Checkpoints of a pruned model from which everything goes on: revival, repair and its undoing, warm-ups.

A folder holds ``model.safetensors`` (stock names, pruned units written as zeros and warm-ups folded in, so that stock
transformers loads the pruned model), ``plastic.json`` (mask, scales, warm-ups, mode, notes), ``plastic.safetensors`` (what
pruning put aside and what repair replaced) and, in the middle of training, ``training.pt``. A ``.pth`` or ``.pt`` file holds
the same in one dictionary of tensors and plain containers, which ``torch.load(weights_only=True)`` reads.
"""

from __future__ import annotations

import json
import pickle
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerBase

from plasticity_env.common.digests import checked_folder, load_archive, plain_name, write_manifest
from plasticity_env.common.errors import InputError, first_line
from plasticity_env.common.files import new_folder, replace_file, write_text
from plasticity_env.common.values import brief, user_path
from plasticity_env.model.applied_repairs import OutputRepair
from plasticity_env.model.guards import masked_weights
from plasticity_env.model.loading import LOADING, LoadedModel, check_device, read_tokenizer, without_bars
from plasticity_env.model.loading_remarks import remarks_held_back
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.model.snapshots import Snapshot
from plasticity_env.model.state_dicts import read_gates
from plasticity_env.model.unit_weights import read_saved

FORMAT = 1
DESCRIPTION, TENSORS, TRAINING = "plastic.json", "plastic.safetensors", "training.pt"
SUFFIXES = (".pth", ".pt")
_PARTS = ("base", "weight", "bias", "base_bias")
_DAMAGE = (
    *(OSError, EOFError, KeyError, IndexError, ValueError, OverflowError, TypeError, RuntimeError, AttributeError),
    *(pickle.UnpicklingError, SafetensorError, InputError),
)


@dataclass(frozen=True)
class _Contents:
    """What a checkpoint holds.

    Attributes:
        description: JSON-able: format, name, mode, mask, scales, warm-ups, which repairs.
        weights: Stock names; rows of units whose gate is not 1 are multiplied by it.
        aside: What the weights do not say: present rows, saved weights, repairs.
    """

    description: dict[str, Any]
    weights: dict[str, Tensor]
    aside: dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """All that `save_plastic` wrote.

    Attributes:
        loaded: The model in evaluation mode, its tokenizer (None if none was saved), its name.
        notes: What was noted beside it; empty when nothing was.
        training: A trainer's ``state_dict`` in the middle of training, on the CPU; None when none was saved.
    """

    loaded: LoadedModel
    notes: dict[str, Any]
    training: dict[str, Any] | None


def is_checkpoint(path: str | Path) -> bool:
    """Whether a path looks like something that `save_plastic` wrote."""
    path = user_path(path, "a checkpoint")
    return (path / DESCRIPTION).is_file() or (path.suffix in SUFFIXES and path.is_file())


def is_own_file(path: Path) -> bool:
    """Whether a file is one that `save_plastic` wrote, as far as its outermost layer tells."""
    try:
        whole = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    except _DAMAGE:
        return False
    return isinstance(whole, dict) and "plastic" in whole


def save_plastic(
    model: PlasticModel,
    path: str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    name: str | None = None,
    *,
    notes: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
) -> None:
    """Write a model with everything that edits changed; an older checkpoint at this path is replaced.

    Args:
        model: In any state.
        path: A folder, or a ``.pth`` / ``.pt`` file.
        tokenizer: Saved beside the weights when given.
        name: What the model is called, so that `load_plastic` can tell it from others.
        notes: JSON-able, kept beside the model: where it comes from, which heads are new.
        training: ``PlasticityTrainer.state_dict()`` (tensors and plain containers), to go on in the middle of training.

    Raises:
        InputError: A folder that is no checkpoint lies at this path, the model was compacted in place, or it carries U-Net
            skips.
        OSError: Nothing can be written there.
    """
    if not isinstance(model, PlasticModel):
        raise InputError(f"save_plastic keeps a PlasticModel, got {brief(model)}: for others use their save_pretrained")
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


def load_plastic(path: str | Path, *, name: str | None = None, device: str | torch.device = "cpu") -> LoadedModel:
    """Read what `save_plastic` wrote.

    Args:
        path: A folder or a file.
        name: What the model must be called; None takes any.
        device: Where it goes.

    Returns:
        The model in evaluation mode, in the state in which it was saved; its tokenizer (None if none was saved); its name.

    Raises:
        InputError: Nothing there, not a checkpoint of this package, damaged, or of another model.
    """
    return load_checkpoint(path, name=name, device=device).loaded


def load_checkpoint(path: str | Path, *, name: str | None = None, device: str | torch.device = "cpu") -> Checkpoint:
    """Read what `save_plastic` wrote, with its notes and the state of training; arguments and errors of `load_plastic`."""
    path, device = user_path(path, "a checkpoint"), check_device(device)
    if not is_checkpoint(path):
        raise InputError(
            f"no checkpoint of a pruned model at {str(path)!r}: give a folder with {DESCRIPTION}, or a .pth file, as "
            "save_plastic writes them"
        )
    try:
        checkpoint = _read_file(path) if path.is_file() else _read_folder(path)
    except _DAMAGE as error:
        raise InputError(
            f"{str(path)!r} cannot be read: it is damaged, or not a checkpoint that save_plastic wrote ({first_line(error)})"
        ) from error
    loaded = checkpoint.loaded
    if name is not None and name != loaded.name:
        raise InputError(f"{str(path)!r} is a checkpoint of {loaded.name!r}, not of {name!r}: name that model")
    loaded.model.to(device)
    return checkpoint


def _contents(model: PlasticModel, name: str | None, tokenizer: bool) -> _Contents:
    snapshot = model.snapshot(weights=False)
    repairs = {}
    aside: dict[str, Tensor] = {}
    for site, repair in snapshot.repairs.items():
        current = repair.version == model.weight_version
        repairs[str(site)] = {"current": current}
        aside |= {f"repair.{site}.{part}": t for part in _PARTS if (t := getattr(repair, part)) is not None}
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
    return _Contents(description, weights, aside)


def _restore(hf_model: Any, contents: _Contents) -> PlasticModel:
    """Wrap a stock model that holds the checkpoint's weights, and bring everything else back."""
    said, aside = contents.description, contents.aside
    model = PlasticModel(hf_model.eval(), said["mode"], said["mlp_blocks"])
    active, scale, warmup = read_gates(said, model)
    version = model.weight_version
    model.weights_changed()
    weights = {key: value.detach().clone() for key, value in hf_model.state_dict().items()}
    names = {id(parameter): key for key, parameter in hf_model.named_parameters()}
    parts: dict[int, dict[str, Tensor]] = {}
    for key, tensor in aside.items():
        kind, _, rest = key.partition(".")
        if kind == "bias":
            weights[rest] = tensor
        elif kind == "rows":
            rows = model.unit_weights.rows(key)
            rows.narrow(weights[names[id(rows.parameter)]]).copy_(tensor)
        elif kind != "saved":
            site, part = rest.split(".")
            parts.setdefault(int(site), {})[part] = tensor
    model.restore(
        Snapshot(
            active=active,
            scale=scale,
            warmup=warmup,
            saved=read_saved(aside),
            repairs={
                site: OutputRepair(
                    **{part: found.get(part) for part in _PARTS},  # type: ignore[arg-type]
                    version=version if said["repairs"][str(site)]["current"] else 0,
                )
                for site, found in parts.items()
            },
            weights=weights,
            version=version,
            neuron_order=said.get("neuron_order", "stored"),
        )
    )
    return model


def _read_folder(path: Path) -> Checkpoint:
    with checked_folder(path):
        description = _checked(json.loads((path / DESCRIPTION).read_text(encoding="utf-8")))
        aside = load_file(path / TENSORS)
        with without_bars(), LOADING, remarks_held_back():
            hf_model = AutoModelForCausalLM.from_pretrained(path, dtype="auto", trust_remote_code=False)
            tokenizer: Any = read_tokenizer(path) if description["tokenizer"] else None
        loaded = LoadedModel(_restore(hf_model, _Contents(description, {}, aside)), tokenizer, description["name"])
        there = (path / TRAINING).exists()
        training = load_archive(path / TRAINING) if there else None
        return Checkpoint(loaded, dict(description.get("notes", {})), training)


def _read_file(path: Path) -> Checkpoint:
    whole = load_archive(path)
    if not isinstance(whole, dict):
        raise InputError(f"it holds a {type(whole).__name__}")
    description = _checked(whole["plastic"])
    with tempfile.TemporaryDirectory() as folder:
        for file, content in whole["files"].items():
            (Path(folder) / plain_name(file)).write_bytes(content.numpy().tobytes())
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        tokenizer: Any = read_tokenizer(folder) if description["tokenizer"] else None
        generation = GenerationConfig.from_pretrained(folder)
    with LOADING:
        hf_model = AutoModelForCausalLM.from_config(config, dtype=next(iter(whole["weights"].values())).dtype)
    hf_model.generation_config = generation
    hf_model.load_state_dict(whole["weights"])
    contents = _Contents(description, {}, whole["aside"])
    loaded = LoadedModel(_restore(hf_model, contents), tokenizer, description["name"])
    return Checkpoint(loaded, dict(description.get("notes", {})), whole.get("training"))


def _checked(description: Any) -> dict[str, Any]:
    if description["format"] != FORMAT:
        raise InputError(f"it has format {description['format']!r}, known is {FORMAT}")
    return dict(description)


def _small_files(model: PlasticModel, tokenizer: PreTrainedTokenizerBase | None) -> dict[str, Tensor]:
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
