"""Checkpoints of PPO from which training goes on exactly: same weights, same draws, same episodes."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml

from plasticity_env.common.arguments import first_change
from plasticity_env.common.errors import InputError, first_line
from plasticity_env.common.files import replace_file
from plasticity_env.envs.replay import EpisodeRecord
from plasticity_env.envs.settings import Settings

if TYPE_CHECKING:
    from plasticity_env.agents.ppo.ppo import PPO

NAME = "checkpoint.pt"


def save_checkpoint(ppo: PPO, folder: Path) -> None:
    """Write the whole state of a training into ``folder``; readable with ``torch.load(weights_only=True)``."""
    state = {
        "config": asdict(ppo.config),
        "network": ppo.network.state_dict(),
        "optimizer": ppo.optimizer.state_dict(),
        "generator": ppo.generator.get_state(),
        "global_step": ppo.global_step,
        "update": ppo.update,
        "returns": list(ppo.returns),
        "environments": [_environment_state(env) for env in ppo.envs],
    }
    write_state(folder, state)


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Write a training's state, tensors and plain values, into ``folder``."""
    replace_file(folder / NAME, lambda path: torch.save(state, path))


def has_checkpoint(folder: Path) -> bool:
    """Whether ``folder`` holds a checkpoint."""
    return (folder / NAME).is_file()


def load_checkpoint(ppo: PPO, folder: Path) -> bool:
    """Put the state of ``folder``'s checkpoint into a PPO built with the same arguments; False where there is none.

    Raises:
        InputError: The checkpoint belongs to other arguments.
    """
    state = read_state(folder, asdict(ppo.config), ppo.device, "environments")
    if state is None:
        return False
    if len(state["environments"]) != len(ppo.envs):
        raise InputError(f"the checkpoint has {len(state['environments'])} environments, this training {len(ppo.envs)}")
    ppo.network.load_state_dict(state["network"])
    ppo.optimizer.load_state_dict(state["optimizer"])
    ppo.generator.set_state(state["generator"].cpu())
    ppo.global_step, ppo.update = state["global_step"], state["update"]
    ppo.returns = list(state["returns"])
    ppo.observations = [_go_on(env, saved) for env, saved in zip(ppo.envs, state["environments"], strict=True)]
    return True


def read_state(folder: Path, ours: dict[str, Any], device: torch.device, key: str) -> dict[str, Any] | None:
    """What `write_state` wrote; None where there is none.

    Args:
        folder: Where.
        ours: Arguments of this training, which must be those of the checkpoint's ``config``.
        device: Where tensors go.
        key: An entry that only this kind of agent writes.

    Raises:
        InputError: No checkpoint, or one of another agent or of other arguments.
    """
    path = folder / NAME
    if not has_checkpoint(folder):
        return None
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location=device)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        reason = first_line(error, 120)
        raise InputError(f"the checkpoint {str(path)!r} cannot be read ({reason}): start in another folder") from error
    if key not in state:
        raise InputError(f"the checkpoint in {str(folder)!r} is of another agent: start in another folder")
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
        names: Of those that must agree.

    Raises:
        InputError: The file is none, or one of them differs.
    """
    if not path.is_file():
        return
    try:
        changed = first_change(ours, yaml.safe_load(path.read_text(encoding="utf-8")), names)
    except (yaml.YAMLError, TypeError, AttributeError) as error:
        raise InputError(f"{str(path)!r} holds no arguments of a training: start in another folder") from error
    if changed is not None:
        name, theirs, mine = changed
        raise InputError(
            f"the run in {str(path.parent)!r} was trained with {name}={theirs!r}, not {mine!r}: "
            "resume with the same arguments or start in another folder"
        )


def _environment_state(env: Any) -> str:
    record: EpisodeRecord = env.unwrapped.episode_record()
    return json.dumps({"record": asdict(record), "random": env.unwrapped.np_random.bit_generator.state})


def _go_on(env: Any, saved: str) -> Any:
    """Replay the running episode (rewards are deterministic), then put the random generator back."""
    data = json.loads(saved)
    record = data["record"]
    if Settings.read(record["kwargs"]) != env.unwrapped.settings or record["env_id"] != env.unwrapped.env_id:
        raise InputError("the checkpoint's environments have other arguments than this training's: use the same ones")
    observation, _ = env.reset(seed=0, options=data["record"]["options"])
    for action in data["record"]["actions"]:
        observation = env.step(action if isinstance(action, int) else torch.tensor(action).numpy())[0]
    env.unwrapped.np_random.bit_generator.state = data["random"]
    return observation
