"""Environments as RLlib's env runners build them: from arrays in the object store, padded to one number of head slots."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import ray
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

from plasticity_env.agents.ppo.scenario_env import RelativeRise
from plasticity_env.agents.sb3.sb3 import Padded, PadHeads
from plasticity_env.data.text import Split
from plasticity_env.envs.shared_arrays import PackedModel, pack
from plasticity_env.model.loading import LoadedModel


@dataclass(frozen=True)
class EnvSpec:
    """One environment, but for its model and text.

    Attributes:
        model: Index of the packed model.
        env_id: Gymnasium id.
        settings: Its arguments as JSON, so that equal ones compare equal.
        reference: Rule in whose units HeadRank pays; None for the environment's own reward.
    """

    model: int
    env_id: str
    settings: str
    reference: str | None

    def make(self, packed: PackedModel, own_device: bool) -> gym.Env[Any, Any]:
        """Build it on packed arrays, without the wrapper that pays in a rule's units.

        Args:
            packed: Model and text.
            own_device: This process sees only the accelerator that Ray gave it, whatever its number is elsewhere.
        """
        settings = json.loads(self.settings)
        if own_device:
            settings["device"] = settings["device"].partition(":")[0]
        loaded, text = packed.open(writable=settings["train_steps"] > 0, device=settings["device"])
        return gym.make(self.env_id, loaded=loaded, text=text, disable_env_checker=True, **settings)


def describe(envs: list[gym.Env[Any, Any]]) -> tuple[list[EnvSpec], list[PackedModel]]:
    """What a runner needs to build environments like these, each model once.

    Args:
        envs: Environments of this package, of one id; their models dense or carrying what an episode left.
    """
    places: dict[str, int] = {}
    specs: list[EnvSpec] = []
    packed: list[PackedModel] = []
    for env in envs:
        base: Any = env.unwrapped
        settings = base.settings
        if settings.model_name not in places:
            places[settings.model_name] = len(packed)
            splits: list[Split] = ["calibration", "reward"]
            splits += ["train"] if settings.train_steps else []
            bench = base.workbench
            packed.append(pack(LoadedModel(bench.model, bench.tokenizer, bench.name), bench.text, splits))
        reference = env.reference if isinstance(env, RelativeRise) else None
        arguments = json.dumps(settings.kwargs(), sort_keys=True)
        specs.append(EnvSpec(places[settings.model_name], base.env_id, arguments, reference))
    return specs, packed


class HeadRunner(SingleAgentEnvRunner):
    """RLlib's env runner, which tells `make_vector` its number so that runners take the environments in turn."""

    def make_env(self) -> None:
        """Build the environments."""
        number = self.worker_index or 0  # 0 is the driver's own
        context = {**self.config.env_config, "runner": max(0, number - 1), "remote": number > 0}
        self.config = self.config.copy(copy_frozen=False).environment(env_config=context)
        super().make_env()

    def reference_steps(self) -> int:
        """Steps that reference rules have taken in this runner's environments."""
        total = 0
        envs: list[gym.Env[Any, Any]] = [] if self.env is None else self.env.unwrapped.envs
        for outer in envs:
            env: gym.Env[Any, Any] = outer
            while isinstance(env, gym.Wrapper):
                total += env.reference_steps if isinstance(env, RelativeRise) else 0
                env = env.env
        return total


class NumbersOnly(gym.Wrapper[Padded, Any, Padded, Any]):
    """Leaves of ``info`` what travels with an episode: its numbers. Masks are in the observation, and differ in size."""

    def reset(self, **kwargs: Any) -> tuple[Padded, dict[str, Any]]:
        observation, info = self.env.reset(**kwargs)
        return observation, _numbers(info)

    def step(self, action: Any) -> tuple[Padded, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, float(reward), terminated, truncated, _numbers(info)


def make_vector(context: Mapping[str, Any]) -> gym.vector.SyncVectorEnv:
    """The environments of one runner, as RLlib's ``vector_entry_point``; equal ones over a frozen model share weights and memo.

    Args:
        context: ``specs``, ``packed`` (references into the object store), ``capacity``, ``runner`` (from 0),
            ``remote`` (not the driver), ``num_envs``.
    """
    specs: list[EnvSpec] = context["specs"]
    count, runner = context["num_envs"], context["runner"]
    first: dict[EnvSpec, Any] = {}
    envs: list[gym.Env[Any, Any]] = []
    for place in range(runner * count, (runner + 1) * count):
        spec = specs[place % len(specs)]
        if spec in first:
            env = first[spec].unwrapped.fork()
        else:
            env = first[spec] = spec.make(ray.get(context["packed"][spec.model]), context["remote"])
        if spec.reference is not None:
            env = RelativeRise(env, spec.reference)
        envs.append(NumbersOnly(PadHeads(env, context["capacity"])))
    return gym.vector.SyncVectorEnv([lambda env=env: env for env in envs])  # type: ignore[misc]


def _numbers(info: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in info.items() if isinstance(value, int | float)}
