"""plasticity/Heads-v1: one decision for every head at once."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from plasticity_env.envs.actions import whole_numbers
from plasticity_env.envs.base import PlasticityEnv
from plasticity_env.envs.edits import EDITS


class HeadsEnv(PlasticityEnv):
    """Rewire a transformer language model, all heads at a time.

    ## Description
    A causal language model starts dense. At each step the agent says of every attention head whether to keep it as it is,
    prune it, revive it with its saved weights, or grow it anew; the environment edits the model, repairs it, fine-tunes it
    if `train_steps` > 0, and measures it on two fixed batches: one that scores and repairs (calibration), one that pays
    (reward). A third split of the text (test) is read by no observation and no reward.

    ## Action Space
    `MultiDiscrete([4] * N)`, N = layers x heads, head h of layer l at index l * H + h:

    | Num | Action |
    |-----|--------|
    | 0 | keep |
    | 1 | prune (an active head) |
    | 2 | revive (a pruned head, saved weights; not in compressed mode) |
    | 3 | grow (a pruned head, new weights; only while the model trains) |

    An edit that its head does not allow is a no-op. Prunes that would together break a limit (`min_heads_per_layer`,
    `max_sparsity`, a FLOP budget) are cancelled, the head with the highest observed Fisher score first. Both are counted in
    `info["invalid_actions"]`.

    ## Observation Space
    `Dict` of `heads` (N, F) head tokens, `globals` (G,), and `action_mask` (N, 4), 1 = allowed. The columns are named in
    `plasticity_env.envs.observation.HEAD_FEATURES` and `GLOBAL_FEATURES`.

    ## Rewards
    A difference of potentials, in nats, so that a return telescopes and a loop of prune and revive earns 0 at gamma 1 (use
    gamma 1). `ppl_per_flop`: log(ppl_0 / ppl) - price * log(flops / flops_0); `kl`: the same with -KL(dense || model) for
    quality; `latency`: the first with the measured forward time of the compacted model for FLOPs; `budget`: reach a sampled
    share of the FLOPs, which the mask forbids to undercut, at the smallest rise in loss.
    With `train_steps` > 0, ppl_0 is that of an unpruned control arm after the same training.

    ## Starting State
    The dense model; price, budget and blocks are drawn with the seed, or given in `reset(options=...)`.

    ## Episode End
    Terminates after `horizon` steps (the time left is observed). Never truncates by itself.

    ## Information
    `loss` (nats per token on the reward batch), `ppl`, `flops` (per token), `params`, `active_heads`, `reward_terms`,
    `action_mask`, `invalid_actions`.

    ## Arguments
    See `plasticity_env.envs.settings.Settings`; all are JSON-able:
    ```python
    >>> import gymnasium as gym, plasticity_env
    >>> env = gym.make("plasticity/Heads-v1", model_name="bard-gpt2-4x4", horizon=4, flop_price=4.0)
    ```

    ## Version History
    * v1: what networks read is clipped to bounds of order 10 (`log_flops_kept` and `log_ppl_kept` to 16)
    * v0: first version
    """

    kind = "heads"

    def _action_space(self, heads: int) -> gym.spaces.Space[Any]:
        return gym.spaces.MultiDiscrete([len(EDITS)] * heads)

    def _action_mask_shape(self, heads: int) -> tuple[int, ...]:
        return (heads, len(EDITS))

    def _action_mask(self, allowed: np.ndarray) -> np.ndarray:
        return allowed.astype(np.int8)

    def edits_of(self, action: Any) -> tuple[Tensor, bool]:
        edits = whole_numbers(action, (self.head_slots,), len(EDITS) - 1, ", ".join(EDITS))
        return torch.from_numpy(edits).view(self.workbench.model.shape), False
