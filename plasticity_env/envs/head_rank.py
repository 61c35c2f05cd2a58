"""plasticity/HeadRank-v1: a score for every head; the environment prunes by rank."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from torch import Tensor

from plasticity_env.envs.base import PlasticityEnv
from plasticity_env.envs.edits import PRUNE, REVIVE
from plasticity_env.envs.ranking import BOUND, rank_edits, read_scores


class HeadRankEnv(PlasticityEnv):
    """Rewire a transformer language model by ranking its heads.

    ## Description
    As `plasticity/Heads-v1`, but the agent only says which heads matter more than which: at each of the `horizon` rounds the
    environment prunes the lowest-scored heads until the round's part of a target share is gone, repairs, and measures anew.
    An episode takes as many decisions as there are rounds (1 to 8 are usual), however many heads the model has.

    ## Action Space
    `Box(-1, 1, (N,))`, N = layers x heads: scores, higher = kept longer. Only their order counts (values outside the box are
    taken too). After round r of R the lowest-scored `pruned_share * r / R` of all heads are pruned; with
    `units="heads+mlp"` the share is one of the units' FLOPs. In adaptive mode all heads stand for choice in every round, so
    a pruned head that now scores high is revived; in compressed mode pruned heads' scores are not read.

    ## Observation Space
    `Dict` of `heads` (N, F), `globals` (G,) with `target_share` and `due_share`, and `action_mask` (N,), 1 where the score
    counts.

    ## Rewards
    As `plasticity/Heads-v1`. The FLOPs are given by the share, so what scores decide is the perplexity that is kept.

    ## Starting State
    The dense model; share, price and blocks are drawn with the seed, or given in `reset(options=...)`.

    ## Episode End
    Terminates after `horizon` rounds.

    ## Information
    As `plasticity/Heads-v1`.

    ## Arguments
    As `plasticity/Heads-v1`, and `pruned_share`: a number, or a range to sample from.
    ```python
    >>> import gymnasium as gym, plasticity_env
    >>> env = gym.make("plasticity/HeadRank-v1", model_name="bard-gpt2-4x4", horizon=4, pruned_share=(0.1, 0.6))
    ```

    ## Version History
    * v1: what networks read is clipped to bounds of order 10 (`log_flops_kept` and `log_ppl_kept` to 16)
    * v0: first version
    """

    kind = "head_rank"
    default_share = (0.1, 0.6)

    def _action_space(self, heads: int) -> gym.spaces.Space[Any]:
        return gym.spaces.Box(-BOUND, BOUND, (heads,), dtype=np.float32)

    def _action_mask_shape(self, heads: int) -> tuple[int, ...]:
        return (heads,)

    def _action_mask(self, allowed: np.ndarray) -> np.ndarray:
        return rank_mask(allowed)

    def edits_of(self, action: Any) -> tuple[Tensor, bool]:
        scores = read_scores(action, (self.head_slots,))
        return rank_edits(scores.view(self._task.shape), self._any_state(), self._task), False


def rank_mask(allowed: np.ndarray) -> np.ndarray:
    """(..., N) int8, 1 where a score counts, from (..., N, 4) allowed edits."""
    return (allowed[..., PRUNE] | allowed[..., REVIVE]).astype(np.int8)
