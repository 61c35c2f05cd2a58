"""plasticity/Route-v0 for N environments at once: look-ups in arrays, no model and no torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from plasticity_env.common.errors import InputError, check_least
from plasticity_env.envs.route import action_space, make_board
from plasticity_env.envs.route_episodes import RouteEpisodes, read_route_actions, read_route_options
from plasticity_env.envs.route_settings import RouteSettings

if TYPE_CHECKING:
    from plasticity_env.dynamic.route_table import RouteTable

Infos = dict[str, Any]


class RouteVectorEnv(VectorEnv[Any, np.ndarray, np.ndarray]):
    """N environments `plasticity/Route-v0` over one table; each is the single environment with the same seed and actions.

    ```python
    >>> import gymnasium as gym, plasticity_env
    >>> envs = gym.make_vec("plasticity/Route-v0", num_envs=256, observation="flat")
    ```

    Args:
        num_envs: Number N of environments.
        autoreset_mode: One of Gymnasium's modes; "SameStep" by default, since an episode is a step or few.
        table: A `RouteTable`, a folder of one, or None for the package's own.
        **settings: See `plasticity_env.envs.route_settings.RouteSettings`.

    Raises:
        InputError: Settings that cannot be used.
    """

    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        autoreset_mode: str | AutoresetMode = AutoresetMode.SAME_STEP,
        render_mode: str | None = None,
        table: RouteTable | str | os.PathLike[str] | None = None,
        **settings: Any,
    ) -> None:
        self.num_envs = check_least("num_envs", num_envs, 1)
        if autoreset_mode not in [*AutoresetMode, *(mode.value for mode in AutoresetMode)]:
            modes = ", ".join(repr(mode.value) for mode in AutoresetMode)
            raise InputError(f"unknown autoreset_mode {autoreset_mode!r}: use one of {modes}")
        if render_mode is not None:
            raise InputError(f"the vector environment draws nothing, got render_mode {render_mode!r}: use gym.make")
        self.render_mode = None
        self._mode = self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self._mode}
        self.settings = RouteSettings.read(settings)
        self.board = make_board(table, self.settings)
        columns = self.board.columns
        flat = self.settings.observation == "flat"
        self.single_observation_space: gym.spaces.Space[Any] = columns.flat_space() if flat else columns.space()
        self.single_action_space = action_space(self.board)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._episodes = RouteEpisodes(self.board, num_envs)
        self._randoms: list[np.random.Generator] = []

    def reset(  # type: ignore[override]
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, Infos]:
        """Start all episodes.

        Args:
            seed: One for each environment; a number s gives s, s + 1, ...
            options: Options of the single environment, for all; ``reset_mask`` ((N,) boolean) leaves the others as they
                are.

        Returns:
            Observations and infos.
        """
        options = dict(options) if isinstance(options, dict) else options  # type: ignore[assignment]
        mask = options.pop("reset_mask", None) if options else None
        options = read_route_options(self.board, options)
        chosen = self._chosen(mask)
        for index, each in enumerate(self._seeds(seed)):
            if index == len(self._randoms):
                self._randoms.append(seeding.np_random(each)[0])
            elif each is not None and chosen[index]:
                self._randoms[index] = seeding.np_random(each)[0]
        self._start(chosen, options)
        return self._observations(), _masked(self._episodes.infos(), chosen)

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, Infos]:
        """Take a decision in every environment.

        Args:
            actions: (N,) whole numbers.

        Returns:
            Observations, rewards in nats, terminated, truncated (never), infos; N of each.
        """
        if not self._randoms:
            raise gym.error.ResetNeeded("call reset() before anything else")
        episodes, over = self._episodes, self._episodes.over.copy()
        taken = read_route_actions(self.board, actions, (self.num_envs,))
        if over.any() and self._mode is AutoresetMode.DISABLED:
            raise gym.error.ResetNeeded(f"episodes {np.flatnonzero(over).tolist()} are over: reset() them (reset_mask)")
        rewards = episodes.turn(taken, ~over)
        if over.any():  # "NextStep": their action is ignored
            self._start(over, {})
        done, infos = episodes.over.copy(), {}
        if done.any() and self._mode is AutoresetMode.SAME_STEP:
            infos = self._final(done)
            self._start(done, {})
        elif done.any():
            infos = _masked(episodes.final_infos(), done)
        infos |= _masked(episodes.infos(), np.ones(self.num_envs, dtype=bool))
        return self._observations(), rewards, done, np.zeros_like(done), infos

    def action_masks(self) -> np.ndarray:
        """(N, A) boolean, True = allowed."""
        return self._episodes.allowed()

    # -- parts -------------------------------------------------------------------------------------------------------

    def _start(self, chosen: np.ndarray, options: dict[str, Any]) -> None:
        rows = np.flatnonzero(chosen)
        self._episodes.start(rows, [self._randoms[row] for row in rows.tolist()], options)

    def _observations(self) -> Any:
        flat = self._episodes.flat()
        return flat if self.settings.observation == "flat" else self.board.columns.shown(flat)

    def _final(self, done: np.ndarray) -> Infos:
        """What "SameStep" says of the episodes that ended."""
        flat, last = self._episodes.flat(), np.full(self.num_envs, None, dtype=object)
        for index in np.flatnonzero(done).tolist():
            last[index] = flat[index] if self.settings.observation == "flat" else self.board.columns.shown(flat[index])
        said = _masked(self._episodes.final_infos(), done)
        return {"final_obs": last, "_final_obs": done.copy(), "final_info": said, "_final_info": done.copy()}

    def _seeds(self, seed: int | Sequence[int | None] | None) -> Sequence[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int | np.integer):
            return [int(seed) + index for index in range(self.num_envs)]
        if not isinstance(seed, Sequence | np.ndarray) or isinstance(seed, str) or len(seed) != self.num_envs:
            raise InputError(f"seed must be a whole number or {self.num_envs} of them, one for each, got {seed!r}")
        return seed

    def _chosen(self, mask: Any) -> np.ndarray:
        if mask is None:
            return np.ones(self.num_envs, dtype=bool)
        chosen = np.asarray(mask)
        if chosen.shape != (self.num_envs,) or chosen.dtype != bool or not chosen.any():
            raise InputError(
                f"reset_mask must be boolean of shape ({self.num_envs},) with at least one True, got {mask!r}"
            )
        if not self._randoms and not chosen.all():
            raise gym.error.ResetNeeded("call reset() for all environments first, without reset_mask")
        return chosen


def _masked(values: dict[str, np.ndarray], chosen: np.ndarray) -> Infos:
    """Infos in Gymnasium's vector form: an array for each name, and under ``_name`` who has it; the others' entries are empty."""
    infos: Infos = {}
    whole = bool(chosen.all())
    for name, value in values.items():
        if not whole:
            value[~chosen] = "" if value.dtype.kind == "U" else 0
        infos[name], infos[f"_{name}"] = value, chosen.copy()
    return infos
