"""How many keys the queries of each layer may see: the scale that an attention entropy is read against."""

from __future__ import annotations

import torch
from torch import Tensor

from plasticity_env.model.compact.modules import KvRun
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.model.score_terms import attend
from plasticity_env.signals.attention_entropy import visible_lengths


@torch.no_grad()
def mean_log_visible(model: PlasticModel, input_ids: Tensor) -> Tensor:
    """Mean log of the number of visible keys, over the queries that see at least two, as `measure` averages entropy.

    Args:
        model: Run on one sequence, since sequences without padding see alike; sliding windows are respected.
        input_ids: (B, T).

    Returns:
        (L,) nats: the largest mean entropy that a head of the layer can have.
    """
    listener = _Listener(model.shape[0])
    with model.using(None, listener):
        model.model(input_ids=input_ids[:1].to(model.device), use_cache=False)
    return listener.logs


class _Listener:
    """Stock attention that notes the masks which pass by."""

    def __init__(self, layers: int) -> None:
        self.logs = torch.zeros(layers)

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scale: float,
        softcap: float | None = None,
    ) -> Tensor:
        visible = visible_lengths(mask, query.shape[2], query.device)[0, 0]  # (T,)
        self.logs[layer] = visible[visible > 1].double().log().mean().cpu()
        groups = query.shape[1] // key.shape[1]
        return attend(
            KvRun(query.shape[1], key.shape[1], groups), query, key, value, mask, scaling=scale, softcap=softcap
        )

    def note_mlp(self, layer: int, neurons: Tensor) -> Tensor:
        """Nothing to note."""
        return neurons
