"""The model side of `plasticity/Stream-v0`: a bank, the texts that a stream is cut from, and chunks that run under structures."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plasticity_env.common.errors import InputError
from plasticity_env.common.lru import ByteCache, Memo
from plasticity_env.common.values import brief
from plasticity_env.data.text import TextSplits, load_text
from plasticity_env.dynamic.bank import StructureBank
from plasticity_env.dynamic.fitting import MIXTURE, fit_structures
from plasticity_env.dynamic.nearest import TextDistances
from plasticity_env.dynamic.prefix import PrefixReader
from plasticity_env.dynamic.running import measuring_flops
from plasticity_env.dynamic.structure import Structure
from plasticity_env.dynamic.token_routes import TokenRoutes
from plasticity_env.envs.settings import bounds
from plasticity_env.envs.stream_settings import StreamSettings
from plasticity_env.model.contexts import evaluating
from plasticity_env.model.flops import flop_table
from plasticity_env.model.loading import LoadedModel, load_model
from plasticity_env.signals.text_sums import TextSums, gather_sums

REMEMBERED = 2**16  # chunks under structures, about 1 KB each
SUMS_BYTES = 2**30  # of measured chunks, 120 MB each on a model of 135 million weights


@dataclass(frozen=True)
class ChunkRun:
    """What one chunk said.

    Attributes:
        loss: Nats per token under the structure.
        dense_loss: The same of the dense model, which nothing but the reward and the last info reads.
        features: (34,) of `PrefixView.features`, over the whole chunk.
        distance: (k,) to the kinds of text that the bank was fitted on.
    """

    loss: float
    dense_loss: float
    features: Tensor
    distance: Tensor


class StreamTexts:
    """Kinds of text, cut into chunks, and streams of them.

    Args:
        settings: Settings of the environment.
        tokenizer: Tokenizer of the model that reads.
        texts: Texts by kind, to use instead of ``settings.datasets``.

    Raises:
        InputError: Nothing of a name, a text too short, or chunks of another length.
    """

    def __init__(self, settings: StreamSettings, tokenizer: Any, texts: Mapping[str, TextSplits] | None = None) -> None:
        length = settings.max_length
        self._settings = settings
        self.texts = dict(texts or {name: load_text(name, tokenizer, block_size=length) for name in settings.datasets})
        for kind, text in self.texts.items():
            if text.block_size != length:
                raise InputError(
                    f"{kind!r} is cut into blocks of {text.block_size} tokens, max_length is {length}: load it with "
                    f"block_size={length}"
                )
        self.chunks = {kind: text.blocks(settings.split) for kind, text in self.texts.items()}  # type: ignore[arg-type]

    def place(self, kind: str, number: int) -> int:
        """Number of a chunk among those of all kinds, one kind after the other."""
        before = list(self.chunks).index(kind)
        return sum(len(ids) for ids in list(self.chunks.values())[:before]) + number

    def drawn(self, random: np.random.Generator) -> list[tuple[str, int]]:
        """Kind and number of every chunk: a stage is a run of neighbouring chunks of another kind than the last."""
        kinds, kind = list(self.chunks), ""
        stream: list[tuple[str, int]] = []
        low, high = (round(end) for end in bounds(self._settings.stage))
        while len(stream) < self._settings.chunks:
            others = [name for name in kinds if name != kind] or kinds
            kind = others[random.integers(len(others))]
            there = len(self.chunks[kind])
            length = int(random.integers(low, high + 1))
            start = int(random.integers(there))
            stream += [(kind, (start + offset) % there) for offset in range(length)]
        return stream[: self._settings.chunks]

    def read(self, stream: Any) -> list[tuple[str, int]]:
        """A stream that a user gives.

        Raises:
            InputError: If it is no list of kinds and numbers, or names a chunk that is not there.
        """
        try:
            found = [(str(kind), int(number)) for kind, number in stream]
        except (TypeError, ValueError):
            raise InputError(f"option stream must be [kind, number] of each chunk, got {brief(stream)}") from None
        for kind, number in found:
            if not 0 <= number < len(self.chunks.get(kind, ())):
                kinds = ", ".join(f"{name} (0 to {len(ids) - 1})" for name, ids in self.chunks.items())
                raise InputError(f"option stream names chunk {number} of {kind!r}: there are {kinds}")
        if not found:
            raise InputError("option stream is empty: give [kind, number] of at least one chunk")
        return found


class StreamBench:
    """Fits a bank to calibration text of each kind, and runs chunks.

    Args:
        settings: Settings of the environment.
        loaded: A model to use instead of ``settings.model_name``; it becomes this bench's own.
        texts: Texts by kind, to use instead of ``settings.datasets``.

    Raises:
        InputError: Nothing of a name, or a text too short.
    """

    def __init__(
        self,
        settings: StreamSettings,
        loaded: LoadedModel | None = None,
        texts: Mapping[str, TextSplits] | None = None,
    ) -> None:
        self.settings = settings
        loaded = load_model(settings.model_name, device=settings.device) if loaded is None else loaded
        self.model, self.name = loaded.model, loaded.name
        self.source = StreamTexts(settings, loaded.tokenizer, texts)
        self.texts, self.chunks = self.source.texts, self.source.chunks
        self._reader = PrefixReader(self.model)
        self.bank, self.prior = self._fitted()
        self._distances = TextDistances(self.bank)
        self.table = flop_table(self.model, settings.max_length)
        costs = self.bank.flops(settings.max_length)
        self.dense_flops = float(costs[0])
        self.flops_kept = (costs / costs[0]).tolist()
        self.measuring = measuring_flops(self.model, settings.max_length, self.dense_flops) / (
            settings.max_length * self.dense_flops
        )  # chunks of the dense model
        self._sums: ByteCache[TextSums] = ByteCache(SUMS_BYTES)
        self._runs: Memo[ChunkRun] = Memo(REMEMBERED)  # under structures of the bank

    def _fitted(self) -> tuple[StructureBank, TextSums]:
        settings, bank = self.settings, StructureBank(self.model)
        together: TextSums | None = None
        for kind, text in self.texts.items():
            ids = text.some("calibration", settings.fit_blocks)
            sums = gather_sums(self.model, ids, batch_size=settings.batch_size)
            together = sums if together is None else together + sums
            for structure in fit_structures(self.model, sums, (settings.share,), settings.max_length, kind):
                bank.add(structure)
            bank.prefixes[kind] = self._reader.read(ids, settings.batch_size).pooled.cpu()
        assert together is not None
        if len(self.texts) > 1:
            for structure in fit_structures(self.model, together, (settings.share,), settings.max_length, MIXTURE):
                bank.add(structure)
        return bank, together

    def on(self, split: str, observation: str, most: int = 0) -> StreamBench:
        """The same model and bank on another split.

        Args:
            split: train, or test.
            observation: dict or flat, of environments over it.
            most: Chunks of each kind, the first ones of its split; 0 for all.
        """
        other = copy.copy(self)
        other.settings = replace(self.settings, split=split, observation=observation)
        other.source = StreamTexts(other.settings, None, self.texts)
        if most:
            other.source.chunks = {kind: ids[:most] for kind, ids in other.source.chunks.items()}
        other.chunks = other.source.chunks
        other._sums, other._runs = ByteCache(SUMS_BYTES), Memo(REMEMBERED)
        return other

    def run(self, kind: str, number: int, structure: Structure) -> ChunkRun:
        """Run one chunk under a structure.

        Args:
            kind: Kind of the text.
            number: Number of the chunk in the split.
            structure: A structure of the bank, whose runs are remembered, or a measured one.
        """
        known = self._runs.get((kind, number, id(structure)))
        return self._through([(kind, number, structure)])[0] if known is None else known

    def remember(self, runs: Iterable[tuple[str, int, int]]) -> None:
        """Run chunks under structures of the bank, several in a pass, so that `run` finds them.

        Args:
            runs: Kind and number of a chunk, and the structure's number in the bank; what is remembered is not run again.
        """
        runs = list(runs)
        places = dict.fromkeys(
            [*((kind, number, 0) for kind, number, _ in runs), *runs]
        )  # dense first: all read its loss
        chunks = [(kind, number, self.bank[place]) for kind, number, place in places]
        wanted = [chunk for chunk in chunks if (*chunk[:2], id(chunk[2])) not in self._runs]
        for start in range(0, len(wanted), self.settings.batch_size):
            self._through(wanted[start : start + self.settings.batch_size])

    @torch.no_grad()
    def _through(self, chunks: Sequence[tuple[str, int, Structure]]) -> list[ChunkRun]:
        """Run chunks in one pass, each under its structure, and remember those under structures of the bank."""
        ids = torch.stack([self.chunks[kind][number] for kind, number, _ in chunks]).to(self.model.device)
        structures = list({id(structure): structure for *_, structure in chunks}.values())
        numbers = {id(structure): number for number, structure in enumerate(structures)}
        under = torch.tensor([[numbers[id(structure)]] for *_, structure in chunks], device=ids.device)
        routes = TokenRoutes(self.model, structures)
        with evaluating(self.model.model), routes.along(under.expand_as), self._reader.listening() as tap:
            logits = self.model.model(input_ids=ids, use_cache=False).logits
        view = self._reader.view(tap, logits, ids, torch.ones_like(ids, dtype=torch.bool))
        said = zip(chunks, view.loss.tolist(), view.features, self._distances.to(view), strict=True)
        return [self._noted(*chunk, loss, features, distance) for chunk, loss, features, distance in said]

    def _noted(
        self, kind: str, number: int, structure: Structure, loss: float, features: Tensor, distance: Tensor
    ) -> ChunkRun:
        dense = loss if structure.is_dense else self.run(kind, number, self.bank[0]).loss
        run = ChunkRun(loss, dense, features, distance)
        in_bank = any(structure is mine for mine in self.bank)
        return self._runs.put((kind, number, id(structure)), run) if in_bank else run

    def sums(self, kind: str, number: int) -> TextSums:
        """What a chunk says of the units, measured in the dense model."""
        known = self._sums.get((kind, number))
        if known is None:
            ids = self.chunks[kind][number : number + 1]
            known = gather_sums(self.model, ids, batch_size=1)
            self._sums.put((kind, number), known, known.nbytes)
        return known
