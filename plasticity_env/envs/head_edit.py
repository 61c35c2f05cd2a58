"""plasticity/HeadEdit-v1: one edit of one head a step."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from plasticity_env.envs.actions import whole_numbers
from plasticity_env.envs.base import PlasticityEnv
from plasticity_env.envs.edits import GROW, KEEP, PRUNE, REVIVE

EDIT_ORDER = (PRUNE, REVIVE, GROW)


class HeadEditEnv(PlasticityEnv):
    """Rewire a transformer language model, one head a step.

    ## Description
    As `plasticity/Heads-v1`, but an action edits a single head, so that the action mask is exact: an allowed action is
    always carried out.

    ## Action Space
    `Discrete(1 + 3 * N)`, N = layers x heads:
    | Num | Action |
    |-----|--------|
    | 0 | stop: the episode ends here |
    | 1 + i | prune head i |
    | 1 + N + i | revive head i |
    | 1 + 2 * N + i | grow head i |

    ## Observation Space
    `Dict` of `heads` (N, F), `globals` (G,) and `action_mask` (1 + 3 * N,), 1 = allowed.

    ## Rewards
    As `plasticity/Heads-v1`.

    ## Starting State
    The dense model.

    ## Episode End
    Terminates when the agent stops or after `horizon` steps.

    ## Information
    As `plasticity/Heads-v1`.

    ## Arguments
    As `plasticity/Heads-v1`.

    ## Version History
    * v1: what networks read is clipped to bounds of order 10 (`log_flops_kept` and `log_ppl_kept` to 16)
    * v0: first version
    """

    kind = "head_edit"

    def _action_space(self, heads: int) -> gym.spaces.Space[Any]:
        return gym.spaces.Discrete(1 + len(EDIT_ORDER) * heads)

    def _action_mask_shape(self, heads: int) -> tuple[int, ...]:
        return (1 + len(EDIT_ORDER) * heads,)

    def _action_mask(self, allowed: np.ndarray) -> np.ndarray:
        edits = [allowed[:, edit] for edit in EDIT_ORDER]
        return np.concatenate([[True], *edits]).astype(np.int8)

    def edits_of(self, action: Any) -> tuple[Tensor, bool]:
        index = int(whole_numbers(action, (), len(EDIT_ORDER) * self.head_slots)) - 1
        edits = torch.full((self.head_slots,), KEEP, dtype=torch.int64)
        if index >= 0:
            edits[index % self.head_slots] = EDIT_ORDER[index // self.head_slots]
        return edits.view(self.workbench.model.shape), index < 0
