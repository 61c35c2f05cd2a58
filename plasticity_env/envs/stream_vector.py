"""plasticity/Stream-v0 for N environments over one model: chunks that nobody ran before go through it side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from plasticity_env.common.errors import InputError, check_least
from plasticity_env.data.text import TextSplits
from plasticity_env.envs.stream_bench import StreamBench
from plasticity_env.envs.stream_env import StreamEnv, stream_env
from plasticity_env.envs.stream_settings import StreamSettings
from plasticity_env.model.contexts import in_plain_mode
from plasticity_env.model.loading import LoadedModel


class StreamVectorEnv(SyncVectorEnv):
    """N environments `plasticity/Stream-v0`; each is the single environment with the same seed and actions.

    They share a model, a bank and what chunks cost under its structures, which is measured once: those of one step that nobody
    ran before in passes of `batch_size`. Measurements are made one by one. With `control="heads"`, where structures are the
    agents' own, the environments merely take turns.

    ```python
    >>> import gymnasium as gym, plasticity_env
    >>> envs = gym.make_vec("plasticity/Stream-v0", num_envs=16, observation="flat")
    ```

    Args:
        num_envs: Number N of environments.
        autoreset_mode: One of Gymnasium's modes.
        control: bank, or heads.
        loaded, texts, bench: As for the single environment.
        **settings: See `plasticity_env.envs.stream_settings.StreamSettings`.

    Raises:
        InputError: Settings that cannot be used.
    """

    def __init__(
        self,
        num_envs: int = 1,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        control: str = "bank",
        loaded: LoadedModel | None = None,
        texts: Mapping[str, TextSplits] | None = None,
        bench: StreamBench | None = None,
        **settings: Any,
    ) -> None:
        check_least("num_envs", num_envs, 1)
        if autoreset_mode not in [*AutoresetMode, *(mode.value for mode in AutoresetMode)]:
            modes = ", ".join(repr(mode.value) for mode in AutoresetMode)
            raise InputError(f"unknown autoreset_mode {autoreset_mode!r}: use one of {modes}")
        if render_mode is not None:
            raise InputError(f"the vector environment draws nothing, got render_mode {render_mode!r}: use gym.make")
        given = {
            name: value for name, value in (("loaded", loaded), ("texts", texts), ("bench", bench)) if value is not None
        }
        if control == "bank" and bench is None:
            given = {"bench": StreamBench(StreamSettings.read(settings), loaded, texts)}
            settings = {}

        def make() -> Any:
            return stream_env(control, **given, **settings)

        super().__init__([make] * num_envs, autoreset_mode=AutoresetMode(autoreset_mode))

    @in_plain_mode
    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:  # type: ignore[override]
        """Decide in every environment, then run the next chunk of each.

        Args:
            actions: (N,) whole numbers, or with `control="heads"` (N, heads).

        Returns:
            Observations, rewards in nats, terminated, truncated (never), infos; N of each.
        """
        pairs = [(env, action) for env, action in zip(self.envs, actions, strict=True) if isinstance(env, StreamEnv)]
        runs = [run for env, action in pairs if (run := env.next_run(action)) is not None]
        if runs:
            pairs[0][0].bench.remember(runs)
        return super().step(actions)
