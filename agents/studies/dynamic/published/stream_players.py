"""Published ways to follow a stream, which make masks of their own for every chunk: Probe Pruning and RAP's agent."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from plasticity_env.agents.studies.dynamic.published.probe_pruning import lost_by_layer, probe_tokens, probed
from plasticity_env.agents.studies.dynamic.published.removable import Removable
from plasticity_env.agents.studies.dynamic.published.removal_agent import RemovalEnv, remover_flops, trained_remover
from plasticity_env.dynamic.prefix import PrefixReader
from plasticity_env.dynamic.text_masks import masked_losses
from plasticity_env.envs.stream_bench import StreamBench, StreamTexts
from plasticity_env.model.flops import flop_table
from plasticity_env.model.loading import load_model

PAST = 0.99  # of its history, which Probe Pruning keeps at each chunk
PROBE_SHARE = 0.05  # of a chunk's hidden states, which it runs ahead
LEARNED = 256  # chunks of each kind, all over its train text, that RAP's agent learns from
Stream = tuple[tuple[str, int], ...]


class StreamPlayer(Protocol):
    """Runs the chunks of a stream under masks of its own."""

    def play(self, stream: Stream) -> tuple[list[float], list[float]]:
        """Losses of the chunks, nats per token, and FLOPs over the dense model's, with what was spent on the choice."""
        ...


class ProbeStream:
    """Probe Pruning over single heads: every chunk's own probe, fused with a history that follows the stream.

    Args:
        bench: Model and chunks; the history begins with its calibration text.
    """

    def __init__(self, bench: StreamBench) -> None:
        self._bench, model = bench, bench.model
        self._gone = lost_by_layer(model, bench.settings.share)
        sites = bench.prior.statistics.sites
        self._history = [sites[block.index].gram.diagonal().float().cpu() for block in model.blocks]
        heads = torch.ones(model.shape, dtype=torch.bool)
        heads[:, : model.heads] = False
        length = bench.settings.max_length
        attention = bench.dense_flops - float(bench.table.total(heads))
        self._probe = probe_tokens(length, PROBE_SHARE) * attention / (length * bench.dense_flops)

    def play(self, stream: Stream) -> tuple[list[float], list[float]]:
        history = [past.clone() for past in self._history]
        losses, kept = [], []
        for kind, number in stream:
            ids = self._bench.chunks[kind][number : number + 1]
            loss, masks = probed(self._bench.model, ids, history, self._gone, PROBE_SHARE, 1, 1, follow=PAST)
            losses.append(float(loss))
            kept.append(float(self._bench.table.total(masks[0])) / self._bench.dense_flops + self._probe)
        return losses, kept


class RemoverStream:
    """RAP's agent: attention layers and MLPs go one after another, as the last chunk tells; the first chunk runs dense.

    What it sees of the last chunk comes from the dense model and is not billed.

    Args:
        bench: Chunks that it plays, and the FLOPs that it is given: those of the kinds' own structures in the mean.
        steps: Removals that it is trained for, on chunks of the train split.
        seed: Seed of the training.
    """

    def __init__(self, bench: StreamBench, steps: int, seed: int) -> None:
        self._bench, settings = bench, bench.settings
        loaded = load_model(settings.model_name, device=settings.device, mlp_blocks=1)
        self._model, self._reader = loaded.model, PrefixReader(loaded.model)
        table = flop_table(self._model, settings.max_length)
        train = StreamTexts(replace(settings, split="train"), loaded.tokenizer, bench.texts).chunks
        places = [np.unique(np.linspace(0, len(ids) - 2, LEARNED).astype(int)) for ids in train.values()]
        seen, coming = (
            torch.cat([ids[where + after] for ids, where in zip(train.values(), places, strict=True)])
            for after in (0, 1)
        )

        def loss_of(text: int, mask: Tensor) -> float:
            return self._loss(coming[text][None], mask)

        self._table, self._dense = table, bench.dense_flops
        self._budget = bench.dense_flops * float(np.mean(bench.flops_kept[1 : 1 + len(bench.texts)]))
        features = self._reader.read(seen).features.numpy()
        self._env = RemovalEnv(Removable.of(self._model, "blocks", table), [self._budget], features, loss_of)
        self._agent = trained_remover(self._env, steps, seed)

    def play(self, stream: Stream) -> tuple[list[float], list[float]]:
        losses, kept, features = [], [], None
        for kind, number in stream:
            ids = self._bench.chunks[kind][number : number + 1]
            mask, spent = torch.ones(self._model.shape, dtype=torch.bool), 0.0
            if features is not None:
                mask = self._env.mask_of(self._agent, features, self._budget)
                decisions = float((~mask).any(1).sum()) * remover_flops(self._agent)
                spent = decisions / (self._bench.settings.max_length * self._dense)
            losses.append(self._loss(ids, mask))
            kept.append(float(self._table.total(mask)) / self._dense + spent)
            features = self._reader.read(ids).features[0].numpy()
        return losses, kept

    def _loss(self, ids: Tensor, mask: Tensor) -> float:
        return float(masked_losses(self._model, ids, mask[None]))
