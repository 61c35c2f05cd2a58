"""What real removal is worth in seconds: the compacted model's forward beside the dense one's."""

from __future__ import annotations

import torch
from torch import Tensor

from plasticity_env.common.stopwatch import ratio, take_turns
from plasticity_env.model.compact.build import compact
from plasticity_env.model.gated_model import GatedModel


@torch.no_grad()
def time_kept(model: GatedModel, ids: Tensor, rounds: int = 5) -> float:
    """Forward seconds of a masked model, compacted, over those of the dense model.

    Args:
        model: The model, whose mask says what is removed; it is left as it is.
        ids: (B, T) tokens of one forward.
        rounds: Rounds after one that does not count; the median of their ratios is returned.
    """
    compacted, ids = compact(model), ids.to(model.device)

    def dense() -> None:
        with model.using(None):
            model.model(input_ids=ids, use_cache=False)

    times = take_turns(
        {"compact": lambda: compacted(input_ids=ids, use_cache=False), "dense": dense}, rounds, ids.device
    )
    return ratio(times["compact"], times["dense"])[0]
