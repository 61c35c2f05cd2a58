"""How a model learns between edits: the arguments that the cycle and the step of fine-tuning share."""

from __future__ import annotations

from dataclasses import dataclass

from plasticity_env.common.arguments import check_counts, given
from plasticity_env.common.values import LARGEST_RATE, check_number


@dataclass(frozen=True, kw_only=True)
class LearningSettings:
    """How a model learns between edits; other settings are made of it."""

    learning_rate: float = 5e-5
    """learning rate of AdamW"""
    new_head_lr_multiplier: float = 3.0
    """learning rate of new heads, as a multiple of --learning_rate"""
    lr_warmup_steps: int = 0
    """optimizer steps until new heads reach that rate"""
    accumulation: int = 1
    """batches in one optimizer step"""
    mixed_precision: bool = False
    """forward and backward in bfloat16"""
    distillation: float = 0.0
    """weight of the differences from the dense model (in a cycle: as the warm-up leaves it) in what is minimised, in [0, 1]; 0:
    next-token loss alone"""
    distil: str = "logits"
    """what of it is compared: logits, hidden (states after each layer), attention (what each layer's attention writes), or
    several joined by +, as logits+hidden; parts count alike"""

    def __post_init__(self) -> None:
        check_counts(self, accumulation=1, lr_warmup_steps=0)
        check_number("learning_rate", self.learning_rate, 0, LARGEST_RATE, above=True)
        check_number("new_head_lr_multiplier", self.new_head_lr_multiplier, 0, 1e6, above=True)
        check_number("distillation", self.distillation, 0, 1)
        if given(self, "distil"):
            from plasticity_env.training.distillation import distilled_parts

            distilled_parts(self.distil)
