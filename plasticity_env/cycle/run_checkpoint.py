"""Where a run goes on from after a phase: both arms, optimizers and random state, with how long the record was then."""

from __future__ import annotations

import json
import pickle
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from plasticity_env.common.digests import load_archive, plain_name, sealed, unsealed
from plasticity_env.common.errors import InputError, first_line
from plasticity_env.common.files import new_folder, replace_file, write_text
from plasticity_env.cycle.record import EVENTS, POSITIONS, TRACKED
from plasticity_env.model.checkpoints import load_plastic, save_plastic
from plasticity_env.model.loading import LoadedModel

POINTER = "models/resume.json"
MODEL, STATE = "model.pth", "state.pt"


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was read.

    Attributes:
        loaded: Model and tokenizer.
        state: Everything else, as it was handed to `save`.
        position: Position of the record (`RunWriter.position`).
    """

    loaded: LoadedModel
    state: dict[str, Any]
    position: dict[str, int]


def save(
    folder: Path,
    loaded: LoadedModel,
    state: dict[str, Any],
    position: dict[str, int],
    name: str,
    keep: bool = False,
) -> None:
    """Write a checkpoint and forget the one before.

    Args:
        folder: Folder of the run.
        loaded: Model and tokenizer.
        state: Tensors and plain containers.
        position: Position of the record.
        name: Name of the checkpoint, for example "cycle1_pruning".
        keep: Never forget this one.

    Raises:
        OSError: Nothing can be written.
    """
    before = _pointer(folder)
    tokenizer: PreTrainedTokenizerBase = loaded.tokenizer
    with new_folder(folder / "models" / f"resume_{name}", replace=True) as place:
        save_plastic(loaded.model, place / MODEL, tokenizer, loaded.name)
        replace_file(place / STATE, lambda temporary: torch.save(state, temporary))
    pointer = sealed({"name": name, "position": position, "keep": keep})
    write_text(folder / POINTER, json.dumps(pointer, indent=1) + "\n")
    if keep:
        write_text(folder / "models" / f"resume_{name}.json", json.dumps(pointer, indent=1) + "\n")
    if before and before["name"] != name and not before["keep"]:
        shutil.rmtree(folder / "models" / f"resume_{before['name']}", ignore_errors=True)


def load(folder: Path, device: str = "cpu", name: str | None = None) -> Saved:
    """Read a run's last checkpoint, or one that was kept.

    Raises:
        InputError: The folder holds no checkpoint, or a damaged one.
    """
    pointer = _pointer(folder, name)
    if pointer is None:
        raise InputError(
            f"{str(folder)!r} holds no checkpoint to go on from: it stopped before its first phase was over, or ran "
            "with checkpoints=False; start it again in another folder"
        )
    place = folder / "models" / f"resume_{pointer['name']}"
    loaded = load_plastic(place / MODEL, device=device)
    try:
        state = load_archive(place / STATE)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise InputError(f"{str(place / STATE)!r} cannot be read: it is damaged ({first_line(error)})") from error
    return Saved(loaded, state, pointer["position"])


def forget(folder: Path, keep: str | None = None) -> None:
    """Remove the checkpoints of a run that is finished, but for one that was kept."""
    (folder / POINTER).unlink(missing_ok=True)  # first: what it points at is going
    for path in (folder / "models").glob("resume*"):
        if keep is not None and path.stem == f"resume_{keep}":
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
    with suppress(OSError):  # nothing was kept: no empty folder is left
        (folder / "models").rmdir()


def going(folder: Path) -> list[Path]:
    """The files of checkpoints that `forget` removes when a run is over."""
    models = folder / "models"
    places = [path for path in models.glob("resume*") if path.is_dir() and not (models / f"{path.name}.json").is_file()]
    return [folder / POINTER, *(file for place in places for file in place.rglob("*"))]


def forget_older(folder: Path) -> None:
    """Remove checkpoints that nothing points at, which a kill between writing one and removing the one before leaves."""
    pointer = _pointer(folder)
    for path in (folder / "models").glob("resume_*"):
        named = pointer is not None and path.name == f"resume_{pointer['name']}"
        if path.is_dir() and not named and not path.with_name(f"{path.name}.json").is_file():
            shutil.rmtree(path, ignore_errors=True)


def has_checkpoint(folder: Path) -> bool:
    """Whether a run can be taken up again."""
    return _pointer(folder) is not None


def position_of(folder: Path) -> dict[str, int] | None:
    """How long the record was at the checkpoint that a run would go on from; None where there is none."""
    pointer = _pointer(folder)
    return None if pointer is None else dict(pointer["position"])


def copy_record(source: Path, target: Path) -> None:
    """Copy what a run has written so far to the folder of another, which then rewinds it to a checkpoint."""
    for name in ("metrics", "warmup"):
        shutil.copytree(source / name, target / name)
    for name in (EVENTS, *TRACKED.values()):
        if (source / name).is_file():
            shutil.copy2(source / name, target / name)


def _pointer(folder: Path, name: str | None = None) -> dict[str, Any] | None:
    path = folder / (POINTER if name is None else f"models/resume_{name}.json")
    try:
        pointer: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        return None
    except ValueError as error:
        raise InputError(f"{str(path)!r} is damaged: it is not JSON ({first_line(error)})") from error
    if not isinstance(pointer, dict) or not isinstance(pointer.get("position"), dict) or "keep" not in pointer:
        raise InputError(f"{str(path)!r} is damaged: it does not say where the run goes on from")
    if not all(isinstance(count, int) and count >= 0 for count in pointer["position"].values()):
        raise InputError(f"{str(path)!r} is damaged: a position in it is not a number of rows")
    if not set(POSITIONS) <= set(pointer["position"]):
        raise InputError(f"{str(path)!r} is damaged: it does not say where each file of the run goes on from")
    plain_name(pointer.get("name"))  # it becomes part of a path
    return unsealed(pointer, path)
