"""Masks that are trained by the loss of the text itself over the frozen model, through a straight-through estimator."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from plasticity_env.agents.studies.dynamic.published.removable import Removable
from plasticity_env.dynamic.text_masks import losses_after, text_masks
from plasticity_env.model.contexts import frozen
from plasticity_env.model.plastic_model import PlasticModel


def straight_through(removable: Removable, scores: Tensor, target: float) -> Tensor:
    """(B, L, U) gates of 0 and 1 whose gradient is that of sigmoids of the (B, n) scores.

    The things of lowest score go, as many as come nearest to the target's FLOPs.
    """
    soft = scores.sigmoid()
    hard = (~removable.lowest(scores, target)).to(soft)
    return removable.gates(hard + soft - soft.detach())


def train_masks(
    model: PlasticModel,
    scores: nn.Module,
    inputs: Tensor,
    ids: Tensor,
    removable: Removable,
    target: float,
    *,
    steps: int,
    batch_size: int,
    rate: float,
    prefix_tokens: int,
    seed: int = 0,
) -> list[float]:
    """Train what scores the things of each text; the model itself stays.

    Args:
        model: The dense model.
        scores: Makes (B, n) scores of (B, F) inputs.
        inputs: (M, F) of the texts.
        ids: (M, T) token ids.
        removable: What can go.
        target: FLOPs per token that masks come nearest to.
        steps, batch_size, rate: Steps of Adam, texts in each, learning rate.
        prefix_tokens: Tokens that run dense; the loss is that of the tokens after them.
        seed: Seed of the order of the texts.

    Returns:
        The mean loss of each step's texts.
    """
    random, losses = torch.Generator().manual_seed(seed), []
    optimizer = torch.optim.Adam(scores.parameters(), rate)
    with frozen(model):
        for _ in range(steps):
            rows = torch.randint(len(ids), (batch_size,), generator=random)
            gates = straight_through(removable, scores(inputs[rows]), target)
            with torch.enable_grad(), text_masks(model, gates, prefix_tokens):
                loss = losses_after(model, ids[rows].to(model.device), prefix_tokens).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    return losses


@torch.no_grad()
def masks_by(scores: nn.Module, inputs: Tensor, removable: Removable, target: float) -> Tensor:
    """(B, L, U) boolean masks of texts whose (B, F) inputs are known."""
    return removable.without(removable.lowest(scores(inputs), target))
