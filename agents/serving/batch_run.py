"""One batch on the model: which rows are running, what each of them says, and what it cost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tokenizers.decoders import DecodeStream
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from plasticity_env.agents.serving.jobs import Ended, Job, Picked, Piece
from plasticity_env.dynamic.routed_model import RoutedModel


@dataclass
class _Row:
    """How far one request is."""

    text: DecodeStream
    picks: list[int] = field(default_factory=list)  # the structure of each stretch between two picks
    tokens: int = 0
    ended: bool = False


class BatchRun:
    """Hears a batch and tells each of its requests; the streamer that ``generate`` is given.

    ``generate`` runs either the whole batch in one pass or, with ``compacted``, one pass for each structure that was picked,
    in the order of their numbers. Each pass begins by showing its prompts.

    Args:
        jobs: The batch.
        routed: The model.
        tokenizer: Tokenizer of the model.
        compacted: Whether each structure has a pass of its own.
        ends: Tokens that end a text.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        routed: RoutedModel,
        tokenizer: PreTrainedTokenizerBase,
        compacted: bool,
        ends: frozenset[int],
    ) -> None:
        self.jobs, self._routed, self._backend = jobs, routed, tokenizer.backend_tokenizer  # type: ignore[attr-defined]
        self._compacted, self._ends = compacted, ends
        self._started = time.monotonic()
        self._rows = [_Row(DecodeStream(ids=job.ids.tolist()[-8:], skip_special_tokens=True)) for job in jobs]
        self._groups: list[list[int]] = [] if compacted else [list(range(len(jobs)))]
        self.running: list[int] = []
        self.columns = 0

    def heard(self, picked: Tensor) -> None:
        """Note what the router picked, first for the prompts, later for what follows."""
        numbers = picked.tolist()
        if self._compacted:
            groups = [[row for row, of in enumerate(numbers) if of == number] for number in sorted(set(numbers))]
            self._groups = groups
        for job, row, number in zip(self.jobs, self._rows, numbers, strict=True):
            if not row.ended and (not row.picks or row.picks[-1] != number):
                job.send(Picked(number, row.tokens))
            row.picks.append(number)

    def put(self, value: Tensor) -> None:
        """Hear the prompts of a pass, (B, T), or one new token a row, (B,)."""
        if value.ndim == 2:
            self.running = self._groups.pop(0)
            self.columns = value.shape[1]
            if len(value) != len(self.running):
                raise RuntimeError(f"a pass of {len(value)} prompts came where {len(self.running)} were due")
            return
        for number, token in zip(self.running, value.tolist(), strict=True):
            row, job = self._rows[number], self.jobs[number]
            if row.ended or job.cancelled:
                continue
            row.tokens += 1
            if token in self._ends:
                self._end(number, "stop")
                continue
            piece = row.text.step(self._backend, token)
            if piece:
                job.send(Piece(piece))
            if row.tokens >= job.max_tokens:
                self._end(number, "length")

    def end(self) -> None:
        """Hear the end of a pass."""

    def _end(self, number: int, reason: str) -> None:
        row, job = self._rows[number], self.jobs[number]
        row.ended = True
        kept, dense = self._cost(number)
        prefix = min(self._routed.prefix_tokens, len(job.ids) - 1)
        waited = self._started - job.arrived
        job.send(Ended(reason, row.tokens, prefix, time.monotonic() - self._started, waited, kept, dense))

    def _cost(self, number: int) -> tuple[float, float]:
        """FLOPs of one request over the dense model's, and the dense model's; counted as `RoutedModel.flops_kept` counts."""
        row, prompt = self._rows[number], len(self.jobs[number].ids)
        length, every = prompt + row.tokens, self._routed.switch_every
        bank, prefix = self._routed.bank, min(self._routed.prefix_tokens, prompt - 1)
        costs = bank.flops(length, all_keys=every is not None).tolist()
        first = bank.flops(length, all_keys=True).tolist()[self._routed.prefix_structure]
        spent = prefix * first + self._routed.reader.flops
        for place in range(prefix, length):
            stretch = 0 if every is None else min(max(0, place - prompt) // every, len(row.picks) - 1)
            spent += costs[row.picks[stretch]]
        dense = length * costs[0]
        return spent / dense, dense
