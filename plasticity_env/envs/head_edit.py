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
        return edit_mask(allowed)

    def edits_of(self, action: Any) -> tuple[Tensor, bool]:
        index = whole_numbers(action, (), len(EDIT_ORDER) * self.head_slots)
        edits, (stop,) = edit_vectors(index[None], self.head_slots)
        return edits.view(self.workbench.model.shape), bool(stop)


def edit_mask(allowed: np.ndarray) -> np.ndarray:
    """(..., 1 + 3 N) int8 mask of single edits, from (..., N, 4) allowed ones."""
    edits = [allowed[..., edit] for edit in EDIT_ORDER]
    stop = np.ones((*allowed.shape[:-2], 1), dtype=bool)
    return np.concatenate([stop, *edits], axis=-1).astype(np.int8)


def edit_vectors(numbers: np.ndarray, slots: int) -> tuple[Tensor, np.ndarray]:
    """(n, N) edits of which each row has at most one, and (n,) boolean, True where the agent stops.

    Args:
        numbers: (n,) actions, as the table of `HeadEditEnv` numbers them.
        slots: Number N of slots.
    """
    edits = torch.full((len(numbers), slots), KEEP, dtype=torch.int64)
    for row, index in enumerate((numbers - 1).tolist()):
        if index >= 0:
            edits[row, index % slots] = EDIT_ORDER[index // slots]
    return edits, numbers == 0
