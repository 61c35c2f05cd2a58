"""What the three steps share: the model and the text that they open, what they measure, and the file that they leave."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plasticity_env.common import cli
from plasticity_env.common.errors import InputError
from plasticity_env.common.places import check_place
from plasticity_env.functional.functions import evaluate_model
from plasticity_env.model.checkpoint_writing import SUFFIXES
from plasticity_env.model.checkpoints import (
    Checkpoint,
    is_checkpoint,
    is_own_file,
    load_checkpoint,
    save_plastic,
)
from plasticity_env.model.flops import flop_table
from plasticity_env.model.loading import LoadedModel, load_model
from plasticity_env.model.plastic_model import PlasticModel


def open_model(name_or_path: str, device: str) -> Checkpoint:
    """A model to start from: a checkpoint of a pruned one, or any name that `load_model` takes.

    Raises:
        InputError: Nothing there, or a checkpoint without a tokenizer.
    """
    if is_checkpoint(name_or_path):
        return open_checkpoint(name_or_path, None, device)
    return Checkpoint(load_model(name_or_path, device=device), {}, None)


def open_checkpoint(path: str | Path, model_name: str | None, device: str) -> Checkpoint:
    """A checkpoint that an earlier step left.

    Args:
        path: Folder or file.
        model_name: What its model must be called (the last part counts: ``gpt2`` is ``openai-community/gpt2``), and where
            the tokenizer comes from if the checkpoint has none; None takes any.
        device: Device that the model goes to.

    Raises:
        InputError: No path, nothing there, not a checkpoint of this package or of another model, or no tokenizer.
    """
    if not str(path):
        raise InputError("no --model_path: name the checkpoint that prune_heads.py or expand_heads.py wrote")
    checkpoint = load_checkpoint(path, device=device)
    loaded = checkpoint.loaded
    if model_name is not None and Path(model_name).name != Path(loaded.name).name:
        raise InputError(
            f"{str(path)!r} is a checkpoint of {loaded.name!r}, not of {model_name!r}: name that model, or leave --model_name out"
        )
    if loaded.tokenizer is None:
        if model_name is None:
            raise InputError(
                f"{str(path)!r} was saved without a tokenizer: name the model whose tokenizer it needs with --model_name"
            )
        loaded = LoadedModel(loaded.model, load_model(model_name).tokenizer, loaded.name)
    return Checkpoint(loaded, checkpoint.notes, checkpoint.training)


def output_path(asked: Path | None, step: str) -> Path:
    """The place that a step writes to: what was asked for, or a new folder under runs/; tried before anything is computed.

    Raises:
        InputError: Something else is at this place.
        OSError: Nothing can be written there.
    """
    path = asked or Path("runs") / f"{step}_{time.strftime('%Y%m%d_%H%M%S')}"
    if path.suffix in SUFFIXES and path.is_dir():
        raise InputError(f"{str(path)!r} is a folder: leave out {path.suffix}, or choose another file name")
    if path.suffix in SUFFIXES and path.is_file() and not is_own_file(path):
        raise InputError(f"{str(path)!r} is a file of something else, or damaged: choose another name")
    if path.suffix not in SUFFIXES and path.exists() and not is_checkpoint(path):
        if not path.is_dir():
            raise InputError(f"{str(path)!r} is a file: name a folder, or a file that ends in {' or '.join(SUFFIXES)}")
        if any(path.iterdir()):
            raise InputError(f"{str(path)!r} is a folder that holds something else: choose another one")
    check_place(path, path.suffix not in SUFFIXES)
    return path


def measured(model: PlasticModel, test: Tensor, batch_size: int) -> dict[str, float]:
    """Test loss and perplexity, active heads, and the share of the dense model's forward FLOPs."""
    found = evaluate_model(model, test, batch_size=batch_size)
    table = flop_table(model, test.shape[1])
    found["flops_kept"] = table.total(model.active) / table.total(torch.ones_like(model.active))
    return found


def comparison(before: dict[str, float], after: dict[str, float], blocks: int) -> str:
    """What a step did to the test perplexity, as a sentence."""
    change = math.expm1(after["loss"] - before["loss"])
    return (
        f"test perplexity {before['perplexity']:.2f} -> {after['perplexity']:.2f} ({change:+.1%}, {blocks} blocks); "
        f"{int(after['active_heads'])} heads active, {after['flops_kept']:.1%} of the FLOPs"
    )


def leave(
    checkpoint: Checkpoint,
    path: Path,
    step: str,
    arguments: Any,
    result: dict[str, Any],
    training: dict[str, Any] | None = None,
) -> None:
    """Write the checkpoint that the next step reads, and note in it what this one did."""
    entry = {
        "step": step,
        "command": cli.command(),
        "arguments": {
            key: str(value) if isinstance(value, Path) else value for key, value in asdict(arguments).items()
        },
        "result": result,
    }
    notes = {**checkpoint.notes, "history": [*checkpoint.notes.get("history", []), entry]}
    model, tokenizer, name = checkpoint.loaded
    save_plastic(model, path, tokenizer, name, notes=notes, training=training)


def head_ages(checkpoint: Checkpoint) -> Tensor:
    """Optimizer steps since each head was grown, (L, U); -1 for heads that are not new.

    Where nothing was noted (a checkpoint that `save_plastic` wrote for somebody else), heads in the middle of their warm-up
    are new.
    """
    model, noted = checkpoint.loaded.model, checkpoint.notes.get("head_ages")
    if noted is not None:
        age = torch.tensor(noted)
        if tuple(age.shape) != model.shape:
            raise InputError(
                f"the checkpoint's notes belong to a model of shape {tuple(age.shape)}, its own is {model.shape}"
            )
        return torch.where(model.active, age, -1)
    taken, total = model.snapshot(weights=False).warmup  # (L, U) each
    return torch.where((taken < total) & model.active, 0, -1)


def listed(mask: Tensor) -> list[list[int]]:
    """[layer, head] of every True."""
    found: list[list[int]] = mask.nonzero().tolist()
    return found
