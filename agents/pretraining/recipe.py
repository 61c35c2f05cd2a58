"""What a training run is: batch, stages of sequence length, learning rates and their schedule.

Batches and learning rates are functions of the step alone (no running random state): a resumed run is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import torch
from torch import Tensor


@dataclass(frozen=True)
class Stage:
    """A part of the run: its share of the steps and the sequence length in tokens."""

    share: float
    length: int


@dataclass(frozen=True)
class Recipe:
    """How a model is trained; learning rates are the peaks of a warmup-constant-linear-to-zero schedule."""

    name: str = "muon"
    tokens_per_step: int = 2048
    stages: tuple[Stage, ...] = (Stage(0.6, 128), Stage(0.25, 256), Stage(0.15, 512))
    use_muon: bool = True
    matrix_lr: float = 0.01
    vector_lr: float = 0.01
    weight_decay: float = 0.1
    warmup_steps: int = 68
    decay_share: float = 0.6
    clip: float = 1.0

    def __post_init__(self) -> None:
        """Reject shares that do not cover the run and lengths that do not divide the batch."""
        if abs(sum(stage.share for stage in self.stages) - 1) > 1e-9:
            raise ValueError(f"the stages' shares add up to {sum(s.share for s in self.stages)}; they must give 1.")
        for stage in self.stages:
            if self.tokens_per_step % stage.length:
                raise ValueError(
                    f"sequence length {stage.length} does not divide tokens_per_step {self.tokens_per_step}."
                )

    def stage_at(self, step: int, steps: int) -> tuple[int, int]:
        """Number of the stage that `step` of `steps` is in, and the step with which that stage starts."""
        ends = [round(steps * sum(stage.share for stage in self.stages[: i + 1])) for i in range(len(self.stages))]
        index = next(i for i, end in enumerate(ends) if step < end)
        return index, ends[index - 1] if index else 0

    def factor(self, step: int, steps: int) -> float:
        """Share of the peak learning rate at `step` of `steps`, in [0, 1]."""
        decay = self.decay_share * steps
        rising = (step + 1) / self.warmup_steps if self.warmup_steps else 1.0
        falling = (steps - step) / decay if decay else 1.0
        return min(1.0, rising, falling)


NAIVE: Final = Recipe(
    name="naive",
    stages=(Stage(1.0, 256),),
    use_muon=False,
    vector_lr=3e-4,
    warmup_steps=0,
    decay_share=0.0,
    clip=1.0,
)
"""The comparator: AdamW at a constant 3e-4, batches of 8 x 256 tokens."""

RECIPES: Final[dict[str, Recipe]] = {"muon": Recipe(), "naive": NAIVE}


def batch_at(tokens: Tensor, recipe: Recipe, step: int, steps: int, seed: int) -> Tensor:
    """The token blocks of one step.

    In every pass over the text the blocks start at another random offset and come in another random order.

    Args:
        tokens: (N,) the train split.
        recipe: gives tokens per step and the stages.
        step: number of the step, from 0.
        steps: steps of the whole run.
        seed: of the run.

    Returns:
        (B, T + 1) int64: T inputs and, one to the right, T targets.
    """
    index, start = recipe.stage_at(step, steps)
    length = recipe.stages[index].length
    rows = recipe.tokens_per_step // length
    blocks = (tokens.numel() - length) // length  # whatever the offset, this many full blocks (and one target) fit
    batch: list[Tensor] = []
    for number in range((step - start) * rows, (step - start + 1) * rows):
        offset, order = _shuffle((seed * 1009 + index) * 100_003 + number // blocks, length, blocks)
        first = offset + int(order[number % blocks]) * length
        batch.append(tokens[first : first + length + 1])
    return torch.stack(batch)


@lru_cache(maxsize=2)
def _shuffle(seed: int, length: int, blocks: int) -> tuple[int, Tensor]:
    """Where the first block of a pass starts, in [0, length), and the order of its blocks, shape (blocks,)."""
    generator = torch.Generator().manual_seed(seed)
    offset = int(torch.randint(length, (1,), generator=generator))
    return offset, torch.randperm(blocks, generator=generator)
