"""plasticity/Levels-v0: how far down each site goes, at exactly the FLOPs that are due."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from torch import Tensor

from plasticity_env.data.text import TextSplits
from plasticity_env.envs.base import PlasticityEnv
from plasticity_env.envs.episode import EpisodeState
from plasticity_env.envs.level_actions import chosen_levels, edits_to, level_space, site_depths
from plasticity_env.envs.level_columns import level_mask, level_rows, score_mask, with_levels
from plasticity_env.envs.level_tables import table_of
from plasticity_env.envs.levels_settings import LevelsSettings
from plasticity_env.envs.levels_task import LevelsTask
from plasticity_env.envs.observation import Observation
from plasticity_env.envs.rewards import Terms
from plasticity_env.envs.task import View
from plasticity_env.envs.workbench import Workbench
from plasticity_env.model.loading import LoadedModel
from plasticity_env.strategies.level_table import LevelTable

COLUMNS = 1  # version of the observation's other columns


class LevelsEnv(PlasticityEnv):
    """Prune a transformer language model by levels: how many units of each site go, in the site's own order.

    ## Description
    A site is a layer's heads, or its blocks of neurons (`units="heads+mlp"`). At reset one elimination a site puts its units in
    the order in which they are missed least once the others make up for them, and prices every level, the first k units gone
    together, on text that the repair was not fitted on. The order stays for the episode, so that a mask is a level a site. At
    each of the `horizon` rounds the agent says how deep sites go; the environment chooses the levels that cost exactly the FLOPs
    that are due, repairs, and measures anew.

    ## Action Space
    With `action="scores"` (the default) `Box(-1, 1, (N,))`, N = layers x units, one number for each unit, higher = kept longer
    (values outside the box are taken too). Of all choices of levels that take off the FLOPs that are due, the environment takes
    the one where the units that go have the least sum of score times FLOPs. So a score stands for a price per FLOP, and what
    all scores have in common does not count.

    With `action="levels"` `MultiDiscrete` of units + 1 for each of the S sites, layer by layer, the heads of each first: how many
    units the site shall lack. If these levels do not cost what is due, the nearest choice that does is taken: the one where the
    FLOPs of the sites differ least in sum, of equally near ones the one of lower price.

    What is due after round r of R is `pruned_share * r / R` of the FLOPs that units own (keys and values that heads share
    go with the last head of their group); exactly the most is taken that any choice of levels can reach within it, or with
    `exact=False` less by less than the cheapest unit: where heads and blocks cost numbers without a large common divisor, few
    choices cost exactly the most. In
    adaptive mode a site may come up again, in compressed mode levels only rise. One head of the model and `min_heads_per_layer`
    heads of each layer stay.

    ## Observation Space
    `Dict` of `heads` (N, F) and `globals` (G,) as `plasticity/HeadRank-v1`; `levels` (N, 4), a row for each unit, of the level
    that its removal leads to, named in `plasticity_env.envs.level_columns.LEVEL_COLUMNS`; and `action_mask`: (N,), 1 where
    a score counts, or with `action="levels"` the levels of all sites one after the other, 1 = allowed.

    ## Rewards
    As `plasticity/Heads-v1`. The FLOPs are given by the share, so what levels decide is the perplexity that is kept.

    ## Starting State
    The dense model; share, price and blocks are drawn with the seed, or given in `reset(options=...)`.

    ## Episode End
    Terminates after `horizon` rounds.

    ## Information
    As `plasticity/Heads-v1`, and `levels` (S,), those that are reached.

    ## Arguments
    As `plasticity/HeadRank-v1`, and `action`; see `plasticity_env.envs.levels_settings.LevelsSettings`. The model is frozen.
    ```python
    >>> import gymnasium as gym, plasticity_env
    >>> env = gym.make("plasticity/Levels-v0", model_name="bard-gpt2-4x4", units="heads+mlp", horizon=1, pruned_share=0.3)
    ```

    ## Version History
    * v0: first version
    """

    kind = "levels"
    default_share = (0.1, 0.6)
    settings_type = LevelsSettings
    task_type = LevelsTask
    settings: LevelsSettings
    _task: LevelsTask

    def __init__(
        self,
        render_mode: str | None = None,
        loaded: LoadedModel | None = None,
        text: TextSplits | None = None,
        workbench: Workbench | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(render_mode, loaded, text, workbench, version=COLUMNS, **settings)

    @property
    def env_id(self) -> str:
        """The Gymnasium id."""
        return "plasticity/Levels-v0"

    @property
    def table(self) -> LevelTable:
        """Order, prices and FLOPs of the levels in the running episode."""
        return table_of(self.workbench, self._any_state(), self.settings.labels == "sampled")

    def due_flops(self, share: float) -> float:
        """FLOPs per token that may be gone when a share of the units' is due; a budget of the reward is kept."""
        return self._task.allowed_flops(share, self._any_state().budget)

    def slack(self, table: LevelTable) -> int:
        """FLOPs by which a choice of levels may stay below the most that can be reached."""
        return self._task.slack(table)

    def edits_of(self, action: Any) -> tuple[Tensor, bool]:
        state, table = self._any_state(), self.table
        levels = chosen_levels(self.settings.action, action, table, self._task.room(table, state))
        return edits_to(state.active, table.mask(levels)), False

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _action_space(self, heads: int) -> gym.spaces.Space[Any]:
        return level_space(self.settings.action, site_depths(self.workbench.model))

    def _action_mask_shape(self, heads: int) -> tuple[int, ...]:
        depths = site_depths(self.workbench.model)
        return (heads,) if self.settings.action == "scores" else (int((depths + 1).sum()),)

    def _action_mask(self, allowed: np.ndarray) -> np.ndarray:
        state, table = self._any_state(), self.table
        room = self._task.room(table, state)
        return score_mask(table, room) if self.settings.action == "scores" else level_mask(table, room)

    def _observation_space(self) -> gym.spaces.Space[Any]:
        return with_levels(super()._observation_space(), self.head_slots)

    def _observed(self, view: View) -> Any:
        shown, rows = super()._observed(view), level_rows(self.table, self.dense_flops)
        return shown.but(levels=rows) if isinstance(shown, Observation) else np.concatenate([shown, rows.ravel()])

    def _info(self, state: EpisodeState, terms: Terms, invalid: int) -> dict[str, Any]:
        return {**super()._info(state, terms, invalid), "levels": self.table.levels(state.active)}
