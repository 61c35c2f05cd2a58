"""Fine-tuning between decisions, on a stream of blocks that the control arm sees in the same order."""

from __future__ import annotations

import torch
from torch import Tensor

from plasticity_env.model import PlasticModel
from plasticity_env.signals import mean_loss, sequence_losses


class FineTuner:
    """AdamW on a fixed stream of training blocks; pruned heads stay bit-identical.

    Args:
        model: Trained in place, in evaluation mode (no dropout), so that runs repeat.
        blocks: (n, T) training blocks.
        order: (steps, batch) indices into ``blocks``: what each optimizer step reads.
        learning_rate: Peak and constant rate of AdamW.
    """

    def __init__(self, model: PlasticModel, blocks: Tensor, order: Tensor, learning_rate: float) -> None:
        self.model = model
        self.blocks = blocks
        self.order = order
        self.taken = 0
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)

    def run(self, steps: int) -> float:
        """Take ``steps`` optimizer steps, wrapping round at the end of the stream; returns their mean loss in nats."""
        losses = []
        for _ in range(steps):
            ids = self.blocks[self.order[self.taken % len(self.order)]].to(self.model.device)
            loss = sequence_losses(self.model, ids).mean()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            with self.model.frozen_heads(self.optimizer):
                self.optimizer.step()
            self.model.advance_warmup()
            self.taken += 1
            losses.append(float(loss.detach()))
        self.optimizer.zero_grad(set_to_none=True)
        return sum(losses) / max(1, len(losses))


def control_arm(tuner: FineTuner, reward_ids: Tensor, decisions: int, steps: int, batch_size: int) -> list[float]:
    """Losses of the unpruned model on the reward batch after 0, 1, ... decisions' worth of the same training.

    Args:
        tuner: On a dense model; the caller restores the model afterwards.
        reward_ids: (B, T).
        decisions: How many decisions an episode has.
        steps: Training steps between decisions.
        batch_size: Sequences in one evaluation pass.

    Returns:
        ``decisions + 1`` losses, nats per token.
    """
    losses = [mean_loss(tuner.model, reward_ids, batch_size)]
    for _ in range(decisions):
        tuner.run(steps)
        losses.append(mean_loss(tuner.model, reward_ids, batch_size))
    return losses
