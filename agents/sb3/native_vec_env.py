"""A Gymnasium vector environment that resets in the same step, as Stable-Baselines3 wants its vector environments."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.vec_env import VecEnv

from plasticity_env.common.errors import InputError


class NativeVecEnv(VecEnv):
    """Lets algorithms of Stable-Baselines3 train on a native vector environment, without a process or a loop an environment.

    >>> import gymnasium as gym, plasticity_env
    >>> from stable_baselines3 import PPO
    >>> envs = NativeVecEnv(gym.make_vec("plasticity/Route-v0", num_envs=256, observation="flat"))
    >>> agent = PPO("MlpPolicy", envs, n_steps=8, batch_size=512)

    Args:
        envs: The vector environment; ``autoreset_mode`` must be SAME_STEP.

    Raises:
        InputError: If it resets in the next step, or not by itself.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any]) -> None:
        mode = envs.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.SAME_STEP:
            raise InputError(
                f"Stable-Baselines3 resets in the same step, and this vector environment has autoreset_mode {mode}: make it "
                "with gym.make_vec(..., autoreset_mode=gym.vector.AutoresetMode.SAME_STEP)"
            )
        self.envs = envs
        self.render_mode = None
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)
        self._actions = np.zeros(0)
        self._returns, self._lengths = np.zeros(self.num_envs), np.zeros(self.num_envs, dtype=np.int64)
        self._started = time.perf_counter()

    def reset(self) -> Any:
        options = next((each for each in self._options if each), None)
        seeds = None if self._seeds[0] is None else list(self._seeds)
        seen, _ = self.envs.reset(seed=seeds, options=options)  # type: ignore[arg-type]
        self._reset_seeds()
        self._reset_options()
        self._returns[:], self._lengths[:] = 0.0, 0
        return seen

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> Any:
        seen, rewards, terminated, truncated, infos = self.envs.step(self._actions)
        done = terminated | truncated
        self._returns += rewards
        self._lengths += 1
        said: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        elapsed = time.perf_counter() - self._started
        for index in np.flatnonzero(done).tolist():
            episode = {"r": self._returns[index].item(), "l": self._lengths[index].item(), "t": elapsed}
            said[index] = {
                "terminal_observation": infos["final_obs"][index],
                "TimeLimit.truncated": bool(truncated[index] and not terminated[index]),
                "episode": episode,
            }
        self._returns[done], self._lengths[done] = 0.0, 0
        return seen, rewards.astype(np.float32), done, said

    def close(self) -> None:
        self.envs.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The value of an attribute of the vector environment, once for each environment that is asked for."""
        value = getattr(self.envs.unwrapped, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Refused: the environments share their settings."""
        raise InputError(
            f"environments of a native vector environment share what they are: {attr_name!r} cannot be set"
        )

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Rows of what a method of the vector environment returns, for the environments that are asked for."""
        found = getattr(self.envs.unwrapped, method_name)(*method_args, **method_kwargs)
        return [found[index] for index in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: Any = None) -> list[bool]:
        """False for each: a native environment is not wrapped one by one."""
        return [False for _ in self._get_indices(indices)]

    def _get_indices(self, indices: Any) -> Iterable[int]:
        return range(self.num_envs) if indices is None else [indices] if isinstance(indices, int) else indices
