"""Checkpoints from which training goes on exactly: plain dictionaries of weights, draws, counts and running episodes."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml

from plasticity_env.common.arguments import first_change
from plasticity_env.common.digests import load_archive
from plasticity_env.common.errors import InputError, first_line
from plasticity_env.common.files import replace_file
from plasticity_env.envs.replay import OLDER, EpisodeRecord
from plasticity_env.envs.settings import Settings

NAME = "checkpoint.pt"


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Write a training's state, tensors and plain values, into ``folder``; ``torch.load(weights_only=True)`` reads it."""
    replace_file(folder / NAME, lambda path: torch.save(state, path))


def has_checkpoint(folder: Path) -> bool:
    """Whether ``folder`` holds a checkpoint."""
    return (folder / NAME).is_file()


def read_state(folder: Path, ours: dict[str, Any], device: torch.device, key: str) -> dict[str, Any] | None:
    """What `write_state` wrote; None where there is none.

    Args:
        folder: Folder of the checkpoint.
        ours: Arguments of this training, which must be those of the checkpoint's ``config``.
        device: Device that tensors go to.
        key: An entry that only this kind of agent writes.

    Raises:
        InputError: No checkpoint, or one of another agent or of other arguments.
    """
    path = folder / NAME
    if not has_checkpoint(folder):
        return None
    try:
        state: dict[str, Any] = load_archive(path, device)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        reason = first_line(error, 120)
        raise InputError(f"the checkpoint {str(path)!r} cannot be read ({reason}): start in another folder") from error
    if not isinstance(state, dict) or not isinstance(state.get("config"), dict):
        raise InputError(f"the checkpoint {str(path)!r} holds no state of a training: start in another folder")
    if key not in state:
        raise InputError(f"the checkpoint in {str(folder)!r} belongs to another agent: start in another folder")
    changed = [name for name, value in state["config"].items() if ours.get(name) != value]
    if changed:
        name = changed[0]
        raise InputError(
            f"the checkpoint in {str(folder)!r} was trained with {name}={state['config'][name]!r}, not {ours.get(name)!r}: "
            "resume with the same arguments or start in another folder"
        )
    return state


def check_arguments(path: Path, ours: Any, names: Iterable[str]) -> None:
    """Compare arguments of a run that goes on with those that its folder holds.

    Args:
        path: YAML of the run's arguments; where there is none nothing is compared.
        ours: Arguments of this training, a dataclass.
        names: Names of those that must agree.

    Raises:
        InputError: The file is not a run's arguments, or an argument differs.
    """
    if not path.is_file():
        return
    try:
        changed = first_change(ours, yaml.safe_load(path.read_text(encoding="utf-8")), names)
    except (yaml.YAMLError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{str(path)!r} holds no arguments of a training: start in another folder") from error
    if changed is not None:
        name, theirs, mine = changed
        raise InputError(
            f"the run in {str(path.parent)!r} was trained with {name}={theirs!r}, not {mine!r}: "
            "resume with the same arguments or start in another folder"
        )


def environment_state(env: Any) -> str:
    """The running episode of an environment and its random generator, as JSON."""
    record: EpisodeRecord = env.unwrapped.episode_record()
    return json.dumps({"record": asdict(record), "random": env.unwrapped.np_random.bit_generator.state})


def resume_environment(env: Any, saved: str) -> Any:
    """Replay the running episode (rewards are deterministic), put the random generator back, return the observation.

    Raises:
        InputError: The environment has other arguments than the saved one.
    """
    data = json.loads(saved)
    record = data["record"]
    kinds = [env_id.partition("-v")[0] for env_id in (record["env_id"], env.unwrapped.env_id)]
    if Settings.read({**OLDER, **record["kwargs"]}) != env.unwrapped.settings or kinds[0] != kinds[1]:
        raise InputError("the checkpoint's environments have other arguments than this training's: use the same ones")
    observation, _ = env.reset(seed=0, options=record["options"])
    for action in record["actions"]:
        observation = env.step(action if isinstance(action, int) else torch.tensor(action).numpy())[0]
    env.unwrapped.np_random.bit_generator.state = data["random"]
    return observation
