"""Tokens of a batch as each of its requests wants them drawn, and an end for each at its own length."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria

from plasticity_env.agents.serving.jobs import Job


class RowDrawing(LogitsProcessor):
    """Draws each row's token at its own temperature from its own random generator.

    The likeliest token of logits / temperature + Gumbel noise is a draw from the softmax of logits / temperature, so
    that a batch of such rows runs with ``do_sample=False``.

    Args:
        jobs: Jobs of the whole batch.
        rows: Says which of them are running, in the order of the logits.
    """

    def __init__(self, jobs: Sequence[Job], rows: Callable[[], Sequence[int]]) -> None:
        self._jobs, self._rows = jobs, rows
        self._random = [torch.Generator().manual_seed(job.seed) for job in jobs]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(B, V) logits and noise from (B, V) logits."""
        drawn = scores.to(torch.float32, copy=True)
        for place, number in enumerate(self._rows()):
            temperature = self._jobs[number].temperature
            if temperature > 0:
                noise = -torch.empty(scores.shape[-1]).exponential_(generator=self._random[number]).log()
                drawn[place] = drawn[place] / temperature + noise.to(drawn)
        return drawn


class RowEnding(StoppingCriteria):
    """Ends each row when it has its tokens, or when nobody waits for them.

    Args:
        jobs: Jobs of the whole batch.
        rows: Says which of them are running, in the order of the logits.
        columns: Says how many columns their prompts take.
    """

    def __init__(self, jobs: Sequence[Job], rows: Callable[[], Sequence[int]], columns: Callable[[], int]) -> None:
        self._jobs, self._rows, self._columns = jobs, rows, columns

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: object) -> Tensor:  # type: ignore[override]
        """(B,) boolean, True for rows that are done."""
        new = input_ids.shape[1] - self._columns()
        running = [self._jobs[number] for number in self._rows()]
        done = [job.cancelled or new >= job.max_tokens for job in running]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)
