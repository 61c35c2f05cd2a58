"""How far pruned models are from the dense one, on growing parts of one text."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from plasticity_env.controllers.planners.bill import Bill
from plasticity_env.envs.measurement import Indices
from plasticity_env.envs.workbench import Workbench
from plasticity_env.signals.measure import log_probs

TEACHER_BYTES = 2**29  # of the dense model's answers; what does not fit is asked for again each time


class Divergence:
    """KL(dense || pruned) on blocks of the train split, which neither signals, repairs nor rewards read.

    Args:
        bench: The model, and its text.
        fitted: Blocks that repairs are fitted on.
        blocks: How many blocks are drawn, or all that there are.
        seed: Seed of the draw.
        bill: Where evaluations are written: tokens as they are, and one evaluation for as many tokens as the reward batch has.
        batch_tokens: Tokens of the reward batch.

    Attributes:
        blocks: How many there are.
    """

    def __init__(
        self, bench: Workbench, fitted: Indices, blocks: int, seed: int, bill: Bill, batch_tokens: int
    ) -> None:
        self._bench, self._fitted, self._bill, self._batch_tokens = bench, fitted, bill, batch_tokens
        there = bench.text.blocks("train")
        random = np.random.default_rng(seed)
        drawn = np.array(bench.text.draw("train", min(blocks, len(there)), random))
        self._ids = there[random.permutation(drawn)]
        self.blocks = len(drawn)
        self._answers: dict[int, Tensor] = {}  # of the dense model, by the number of a chunk
        self._bytes = 0

    @torch.no_grad()
    def of(self, active: Tensor, blocks: int) -> float:
        """Nats per predicted token of an (L, U) mask, repaired, on the first blocks."""
        model, total, ids = self._bench.model, 0.0, self._ids[:blocks]
        self._bench.install(active, self._fitted)
        for number, chunk in enumerate(ids.split(self._bench.batch_size)):
            written, answer = log_probs(model, chunk), self._dense(number)[: len(chunk)]
            apart = F.kl_div(written, answer.to(written.device), reduction="none", log_target=True)
            total += float(apart.sum(-1).double().sum())
        self._bill.forward_tokens += ids.numel()
        self._bill.evaluations += math.ceil(ids.numel() / self._batch_tokens)
        return total / (blocks * (ids.shape[1] - 1))

    def _dense(self, number: int) -> Tensor:
        """(b, T - 1, V) log-probabilities of the dense model on a chunk, on the CPU."""
        known = self._answers.get(number)
        if known is not None:
            return known
        chunk = self._ids.split(self._bench.batch_size)[number]
        with self._bench.model.dense():
            found = log_probs(self._bench.model, chunk).cpu()
        self._bill.forward_tokens += chunk.numel()
        if self._bytes + found.nbytes <= TEACHER_BYTES:
            self._bytes += found.nbytes
            self._answers[number] = found
        return found
