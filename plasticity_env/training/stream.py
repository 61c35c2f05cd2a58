"""Fine-tuning between decisions, on a stream of blocks that the control arm sees in the same order."""

from __future__ import annotations

import torch
from torch import Tensor

from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.signals.measure import mean_loss
from plasticity_env.training.trainer import PlasticityTrainer


class FineTuner:
    """AdamW on a fixed stream of training blocks; pruned heads stay bit-identical.

    Args:
        model: Trained in place, in evaluation mode (no dropout), so that runs repeat.
        blocks: (n, T) training blocks.
        order: (steps, batch) indices into ``blocks``: what each optimizer step reads.
        learning_rate: Peak and constant rate of AdamW.
    """

    def __init__(self, model: PlasticModel, blocks: Tensor, order: Tensor, learning_rate: float) -> None:
        self.model, self._blocks, self._order = model, blocks, order
        trained = [
            p for p in model.parameters() if p.requires_grad
        ]  # not biases that a repair added, which come and go
        self.optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.01)
        self._trainer = PlasticityTrainer(model, self._batch, optimizer=self.optimizer)

    @property
    def taken(self) -> int:
        """Optimizer steps so far: the place in the stream; may be set."""
        return self._trainer.taken

    @taken.setter
    def taken(self, steps: int) -> None:
        self._trainer.taken = steps

    def _batch(self, step: int) -> Tensor:
        return self._blocks[self._order[step % len(self._order)]]

    def run(self, steps: int) -> float:
        """Take ``steps`` optimizer steps, wrapping round at the end of the stream; returns their mean loss in nats.

        Raises:
            InputError: The training diverged.
        """
        losses = [done.loss for done in self._trainer.run(steps)]
        return sum(losses) / max(1, len(losses))


def control_arm(tuner: FineTuner, reward_ids: Tensor, decisions: int, steps: int, batch_size: int) -> list[float]:
    """Losses of the unpruned model on the reward batch after 0, 1, ... decisions' worth of the same training.

    Args:
        tuner: Trainer of a dense model; the caller restores the model afterwards.
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
