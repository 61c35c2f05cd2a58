"""Agents by name: who trains a controller, on which environments, and from what a training that was cut goes on.

A new agent is one record and one line:

>>> register_agent(Agent("mine", "my_package.my_module:make_learner", envs=("heads",)))

`plasticity_env.agents.training.builders` has the functions of the agents that come with this package; an agent with arguments
of its own subclasses `TrainConfig`, and finds them in what its function is given.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from plasticity_env.common.errors import unknown
from plasticity_env.common.packages import missing, require
from plasticity_env.common.registries import Registry, by_name

if TYPE_CHECKING:
    from plasticity_env.agents.ppo.ppo import Callback
    from plasticity_env.controllers.ann import ANNController

ENVIRONMENTS = {
    "heads": "plasticity/Heads-v1",
    "head_edit": "plasticity/HeadEdit-v1",
    "head_rank": "plasticity/HeadRank-v1",
}


@dataclass(frozen=True)
class Learner:
    """An agent that is ready to train.

    Attributes:
        start: Environment steps that it has behind it.
        learn: Trains to the end, given a folder for checkpoints and what to call after each update; returns the controller.
        now: The controller as it is.
        reference_steps: Steps that a reference rule has taken so far, where the agent's own count leaves them out.
    """

    start: int
    learn: Callable[[Path, Callback], ANNController]
    now: Callable[[], ANNController]
    reference_steps: Callable[[], int] = lambda: 0


Build = Callable[[Any, list[gym.Env[Any, Any]]], Learner]


@dataclass(frozen=True)
class Agent:
    """One way to train a controller.

    Attributes:
        name: Its name, as ``--agent`` takes it.
        build: Function from the arguments of a training (a `TrainConfig`) and its environments to a `Learner`, or
            "module:function", which is imported when the agent is asked for. With ``resume`` the learner goes on from the
            checkpoint in ``output_dir``.
        envs: Kinds of environments that it trains on, of `ENVIRONMENTS`.
        checkpoint: File of the run folder that it goes on from; None where it always starts anew.
        scenarios: Whether on HeadRank it draws and plays scenarios of its own instead of episodes of the environments.
        network: Whether it trains the network that the arguments of PPO describe.
        reads: Arguments that only some agents read (`SPECIAL`) and this one does.
        package: A package that it needs and that may be missing, and the extra of this package that installs it.
    """

    name: str
    build: str | Build
    envs: tuple[str, ...] = tuple(ENVIRONMENTS)
    checkpoint: str | None = None
    scenarios: bool = False
    network: bool = True
    reads: tuple[str, ...] = ()
    package: tuple[str, str] | None = None

    def missing(self) -> str | None:
        """The sentence that a missing package deserves; None where nothing is missing."""
        return None if self.package is None else missing(*self.package)

    def learner(self, config: Any, envs: list[gym.Env[Any, Any]]) -> Learner:
        """Build the learner.

        Args:
            config: Arguments of the training.
            envs: Its environments.

        Raises:
            InputError: A package is missing, or arguments that the agent cannot use.
        """
        if self.package is not None:
            require(*self.package)
        if not isinstance(self.build, str):
            return self.build(config, envs)
        module, _, name = self.build.partition(":")
        build: Build = getattr(importlib.import_module(module), name)
        return build(config, envs)

    def can_resume(self, folder: Path | None) -> bool:
        """Whether a folder holds what this agent goes on from."""
        return folder is not None and self.checkpoint is not None and (folder / self.checkpoint).is_file()


SPECIAL = ("capacity", "num_env_runners", "ray_address")  # arguments of a training that only some agents read
_OURS = "plasticity_env.agents.training.builders"
_TRAINED = "checkpoint.pt"
AGENTS: Registry[Agent] = Registry(
    "agent",
    by_name(
        (
            Agent("ppo", f"{_OURS}:native_ppo", checkpoint=_TRAINED, scenarios=True),
            Agent("sb3_ppo", f"{_OURS}:sb3_ppo", reads=("capacity",)),
            Agent(
                "sb3_maskable_ppo",
                f"{_OURS}:sb3_maskable_ppo",
                ("heads", "head_edit"),
                reads=("capacity",),
                package=("sb3_contrib", "rl"),
            ),
            Agent("rllib_ppo", f"{_OURS}:rllib_ppo", checkpoint=_TRAINED, reads=SPECIAL, package=("ray.rllib", "ray")),
            Agent(
                "es",
                f"{_OURS}:es",
                ("head_rank",),
                checkpoint="history.json",
                scenarios=True,
                network=False,
                package=("cma", "rl"),
            ),
        )
    ),
)


def register_agent(agent: Agent) -> Agent:
    """Make an agent known by its name.

    Raises:
        InputError: The name is one of the package's own, or it trains on a kind of environment that there is not.
    """
    for kind in agent.envs:
        if kind not in ENVIRONMENTS:
            raise unknown("environment", kind, ENVIRONMENTS)
    AGENTS.add(agent.name, agent)
    return agent


def find_agent(name: str) -> Agent:
    """Look an agent up.

    Raises:
        InputError: No such agent.
    """
    return AGENTS.find(name)
