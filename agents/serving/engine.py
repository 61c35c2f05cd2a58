"""The model behind the server: a batch of prompts in, events out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedTokenizerBase, StoppingCriteriaList

from plasticity_env.agents.serving.batch_run import BatchRun
from plasticity_env.agents.serving.heard_router import HeardRouter
from plasticity_env.agents.serving.jobs import Job
from plasticity_env.agents.serving.token_drawing import RowDrawing, RowEnding
from plasticity_env.common.errors import InputError
from plasticity_env.dynamic.bank import StructureBank
from plasticity_env.dynamic.routed_model import PREFIX, RoutedModel, Router


class Engine:
    """Continues prompts under the structures that a router picks, or that they name.

    Args:
        bank: Structures of the model.
        router: Router that picks.
        tokenizer: Tokenizer of the model.
        prefix_tokens, prefix_structure, switch_every: The same as for `RoutedModel`.
        compacted: Run each structure that was picked on a smaller model of its own, one after the other; else a batch runs in
            one pass, whatever structures it mixes.

    Raises:
        InputError: A tokenizer that cannot decode token by token, or what `RoutedModel` refuses.
    """

    def __init__(
        self,
        bank: StructureBank,
        router: Router,
        tokenizer: PreTrainedTokenizerBase,
        *,
        prefix_tokens: int = PREFIX,
        prefix_structure: int | str | None = None,
        switch_every: int | None = None,
        compacted: bool = False,
    ) -> None:
        if getattr(tokenizer, "backend_tokenizer", None) is None:
            raise InputError("the server streams text with a fast tokenizer (tokenizer.json), and the model has none")
        if compacted and switch_every is not None:
            raise InputError(
                "switch_every changes structures while a text is made, and compacted models cannot: leave one out"
            )
        self._router = HeardRouter(router)
        self.routed = RoutedModel(
            bank,
            self._router,
            prefix_tokens=prefix_tokens,
            prefix_structure=prefix_structure,
            switch_every=switch_every,
        )
        self.bank, self.tokenizer, self.compacted = bank, tokenizer, compacted
        generation: GenerationConfig = bank.model.model.generation_config  # type: ignore[assignment]
        ends = generation.eos_token_id
        self._ends = frozenset([ends] if isinstance(ends, int) else ends or [])
        self._pad = int(generation.pad_token_id if generation.pad_token_id is not None else min(self._ends, default=0))  # type: ignore[arg-type]

    @property
    def positions(self) -> int | None:
        """Most tokens that the model takes, prompt and continuation together; None where it does not say."""
        longest = getattr(self.bank.model.config, "max_position_embeddings", None)
        return None if longest is None else int(longest)

    def encode(self, prompt: str) -> Tensor:
        """(T,) token ids of a prompt, as the model's own tokenizer makes them."""
        return torch.tensor(self.tokenizer(prompt)["input_ids"], dtype=torch.long)

    def run(self, jobs: Sequence[Job]) -> None:
        """Continue prompts, together as far as they fit beside each other; each is told how it goes."""
        for batch in self.fitting(jobs):
            self._run(batch)

    def fitting(self, jobs: Sequence[Job]) -> list[list[Job]]:
        """Requests in batches that the model can run: within its positions, and of one length under a sliding window."""
        batches: list[list[Job]] = []
        for job in jobs:
            place = next((batch for batch in batches if self._fit([*batch, job])), None)
            if place is None:
                batches.append([job])
            else:
                place.append(job)
        return batches

    def _fit(self, jobs: Sequence[Job]) -> bool:
        lengths = [len(job.ids) for job in jobs]
        columns = max(lengths) + max(job.max_tokens for job in jobs)
        window = getattr(self.bank.model.config, "sliding_window", None)
        if window is not None and columns > int(window) and len(set(lengths)) > 1:
            return False
        return self.positions is None or columns <= self.positions

    def _run(self, jobs: Sequence[Job]) -> None:
        longest = max(len(job.ids) for job in jobs)
        ids = torch.full((len(jobs), longest), self._pad, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, job in enumerate(jobs):
            ids[row, longest - len(job.ids) :] = job.ids
            mask[row, longest - len(job.ids) :] = 1
        run = BatchRun(jobs, self.routed, self.tokenizer, self.compacted, self._ends)
        self._router.wanted, self._router.heard = [job.structure for job in jobs], run.heard

        def rows() -> Sequence[int]:
            return run.running

        self.routed.generate(
            ids,
            mask,
            compacted=self.compacted,
            max_new_tokens=max(job.max_tokens for job in jobs),
            do_sample=False,
            pad_token_id=self._pad,
            streamer=run,
            logits_processor=LogitsProcessorList([RowDrawing(jobs, rows)]),
            stopping_criteria=StoppingCriteriaList([RowEnding(jobs, rows, lambda: run.columns)]),
        )
