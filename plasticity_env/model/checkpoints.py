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
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerBase

from plasticity_env.common.digests import checked_folder, load_archive, plain_name
from plasticity_env.common.errors import InputError, first_line
from plasticity_env.common.values import brief, user_path
from plasticity_env.model.applied_repairs import OutputRepair
from plasticity_env.model.checkpoint_writing import (
    DESCRIPTION,
    FORMAT,
    PARTS,
    TENSORS,
    TRAINING,
    Contents,
    is_checkpoint,
    write_plastic,
)
from plasticity_env.model.guards import raw_state
from plasticity_env.model.loading import LOADING, LoadedModel, check_device, read_tokenizer
from plasticity_env.model.loading_remarks import remarks_held_back, without_bars
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.model.snapshots import Snapshot
from plasticity_env.model.state_dicts import read_gates
from plasticity_env.model.unit_weights import read_saved

_DAMAGE = (
    *(OSError, EOFError, KeyError, IndexError, ValueError, OverflowError, TypeError, RuntimeError, AttributeError),
    *(pickle.UnpicklingError, SafetensorError, InputError),
)


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
        model: A model in any state.
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
    write_plastic(model, path, tokenizer, name, notes=notes, training=training)


def load_plastic(path: str | Path, *, name: str | None = None, device: str | torch.device = "cpu") -> LoadedModel:
    """Read what `save_plastic` wrote.

    Args:
        path: A folder or a file.
        name: What the model must be called; None takes any.
        device: Device that the model goes to.

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


def _restore(hf_model: Any, contents: Contents) -> PlasticModel:
    """Wrap a stock model that holds the checkpoint's weights, and bring everything else back."""
    said, aside = contents.description, contents.aside
    model = PlasticModel(hf_model.eval(), said["mode"], said["mlp_blocks"])
    active, scale, warmup = read_gates(said, model)
    version = model.weight_version
    model.weights_changed()
    weights = {key: value.detach().clone() for key, value in raw_state(hf_model).items()}
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
                    **{part: found.get(part) for part in PARTS},  # type: ignore[arg-type]
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
        loaded = LoadedModel(_restore(hf_model, Contents(description, {}, aside)), tokenizer, description["name"])
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
    contents = Contents(description, {}, whole["aside"])
    loaded = LoadedModel(_restore(hf_model, contents), tokenizer, description["name"])
    return Checkpoint(loaded, dict(description.get("notes", {})), whole.get("training"))


def _checked(description: Any) -> dict[str, Any]:
    if description["format"] != FORMAT:
        raise InputError(f"it has format {description['format']!r}, known is {FORMAT}")
    return dict(description)
