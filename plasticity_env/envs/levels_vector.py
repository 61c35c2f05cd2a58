"""plasticity/Levels-v0 for N environments at once."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from plasticity_env.common.errors import InputError
from plasticity_env.data.text import TextSplits
from plasticity_env.envs.actions import as_array
from plasticity_env.envs.episode import EpisodeState
from plasticity_env.envs.level_actions import chosen_levels, edits_to, level_space, site_depths
from plasticity_env.envs.level_columns import level_mask, level_rows, score_mask, with_levels
from plasticity_env.envs.level_tables import table_of
from plasticity_env.envs.levels import COLUMNS, LevelsEnv
from plasticity_env.envs.levels_settings import LevelsSettings
from plasticity_env.envs.levels_task import LevelsTask
from plasticity_env.envs.observation import Observation
from plasticity_env.envs.vector import HeadsVectorEnv
from plasticity_env.model.loading import LoadedModel
from plasticity_env.strategies.level_table import LevelTable


class LevelsVectorEnv(HeadsVectorEnv, VectorEnv[Observation, np.ndarray, np.ndarray]):  # skrl reads direct bases only
    """N environments `plasticity/Levels-v0` over one frozen model; see `HeadsVectorEnv` for the arguments.

    ```python
    >>> import gymnasium as gym, plasticity_env
    >>> envs = gym.make_vec("plasticity/Levels-v0", num_envs=16, horizon=4)
    ```
    """

    kind = LevelsEnv.kind
    default_share = LevelsEnv.default_share
    settings_type = LevelsSettings
    task_type = LevelsTask
    settings: LevelsSettings
    _task: LevelsTask

    def __init__(
        self,
        num_envs: int = 1,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        tokens_per_pass: int | None = None,
        memory_share: float = 0.02,
        render_mode: str | None = None,
        loaded: LoadedModel | None = None,
        text: TextSplits | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(
            num_envs, autoreset_mode, tokens_per_pass, memory_share, render_mode, loaded, text, COLUMNS, **settings
        )

    def action_masks(self) -> np.ndarray:
        """(N, ...) boolean, True where a score counts, or for the levels that may be chosen, site after site."""
        return super().action_masks()

    # -- what another kind of action changes ---------------------------------------------------------------------------

    def _table(self, state: EpisodeState) -> LevelTable:
        return table_of(self.workbench, state, self.settings.labels == "sampled")

    def _single_action_space(self) -> gym.spaces.Space[Any]:
        return level_space(self.settings.action, site_depths(self.workbench.model))

    def _action_mask_shape(self) -> tuple[int, ...]:
        depths = site_depths(self.workbench.model)
        return (self.head_slots,) if self.settings.action == "scores" else (int((depths + 1).sum()),)

    def _single_observation_space(self) -> gym.spaces.Space[Any]:
        return with_levels(super()._single_observation_space(), self.head_slots)

    def _show_mask(self, allowed: np.ndarray) -> np.ndarray:
        shown = score_mask if self.settings.action == "scores" else level_mask
        tables = [(self._table(state), state) for state in self._episodes.states]
        return np.stack([shown(table, self._task.room(table, state)) for table, state in tables])

    def _more_infos(self, state: EpisodeState) -> dict[str, np.ndarray]:
        return {"levels": self._table(state).levels(state.active)}

    def _edits(self, actions: Any) -> tuple[Tensor, None]:
        given, edits = as_array(actions), []
        if given.ndim != 2 or len(given) != self.num_envs:
            raise InputError(
                f"actions must be one row for each of {self.num_envs} environments, got shape {given.shape}"
            )
        for action, state in zip(given, self._episodes.states, strict=True):
            table = self._table(state)
            levels = chosen_levels(self.settings.action, action, table, self._task.room(table, state))
            edits.append(edits_to(state.active, table.mask(levels)))
        return torch.stack(edits), None

    def _observations(self, index: int | None = None) -> Observation:
        shown: Any = super()._observations()
        rows = np.stack([level_rows(self._table(state), self.dense_flops) for state in self._episodes.states])
        if isinstance(shown, Observation):
            shown = shown.but(levels=rows)
            return shown if index is None else shown.row(index)
        flat: Any = np.concatenate([shown, rows.reshape(self.num_envs, -1)], axis=1)
        return flat if index is None else flat[index]
