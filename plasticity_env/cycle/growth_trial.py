"""Growth is measured before it is paid for: grow, train a little, and keep it only where it beats training on without it.

What a head is worth shows after training: at growth a new head's first-order value (the loss's slope in its gate) is zero for
output rows of zero, and for others it is a slope at a closed gate that says nothing of what its weights will learn. So nothing is
predicted here. Both continuations are run from the same state on the same training text, and compared on reward text.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from plasticity_env.cycle.arms import Arm


@dataclass(frozen=True)
class GrowthTrial:
    """What a trial measured; losses on reward text in nats per token.

    Attributes:
        heads: How many heads came back.
        steps: Optimizer steps of each continuation.
        loss_without, loss_with: Losses after them.
        flops_without, flops_with: FLOPs per token.
        price: Price of a nat of log FLOPs.
    """

    heads: int
    steps: int
    loss_without: float
    loss_with: float
    flops_without: float
    flops_with: float
    price: float

    @property
    def gain(self) -> float:
        """How much lower the loss is with the heads, nats per token."""
        return self.loss_without - self.loss_with

    @property
    def cost(self) -> float:
        """What their FLOPs cost, nats: price * log(FLOPs with / FLOPs without)."""
        return self.price * math.log(self.flops_with / self.flops_without)

    @property
    def pays(self) -> bool:
        """Whether the gain is above the cost."""
        return self.gain > self.cost

    def __str__(self) -> str:
        more = self.flops_with / self.flops_without - 1
        verdict = "kept" if self.pays else "taken back"
        return (
            f"{verdict} on trial: {self.heads} heads gain {self.gain:+.4f} nats in {self.steps} steps "
            f"({self.loss_with:.4f} with, {self.loss_without:.4f} without) and cost {self.cost:.4f} "
            f"({more:.2%} more FLOPs at {self.price:g} a nat)"
        )


def try_growth(
    arm: Arm, bring_back: Callable[[int], Tensor], steps: int, gate_steps: int, generator: torch.Generator
) -> tuple[Tensor, GrowthTrial]:
    """Bring heads back where a trial says that they pay.

    The trial leaves no trace: model, trainer and generator go on from where they were, so that the run sees the same training
    text as one without a trial. It costs two continuations of ``steps`` steps.

    Args:
        arm: Arm whose model is edited.
        bring_back: Grows or revives, given the steps in which gates open, and returns what came back, (L, U) boolean.
        steps: Optimizer steps of each continuation; gates that open slowly are open by its end.
        gate_steps: Steps in which gates open when the heads are kept.
        generator: Source of what ``bring_back`` draws.

    Returns:
        What came back, nothing where it does not pay, and the trial.
    """
    model = arm.model
    before, trainer = model.snapshot(), copy.deepcopy(arm.trainer.state_dict())
    random = generator.get_state()

    def go_back() -> None:
        model.restore(before)
        arm.trainer.load_state_dict(copy.deepcopy(trainer))
        generator.set_state(random)

    try:
        arm.trainer.run(steps)
        loss_without, flops_without = arm.loss("reward"), arm.flops
        go_back()
        mask = bring_back(min(steps, gate_steps))
        arm.trainer.run(steps)
        loss_with, flops_with = arm.loss("reward"), arm.flops
    finally:
        go_back()
    price = arm.settings.flop_price
    trial = GrowthTrial(int(mask.sum()), steps, loss_without, loss_with, flops_without, flops_with, price)
    return (bring_back(gate_steps) if trial.pays else torch.zeros_like(mask)), trial


def with_trial(reason: str, trial: GrowthTrial | None) -> str:
    """A reason, and what a trial said if there was one."""
    return reason if trial is None else f"{reason}; {trial}"
