"""A model, its texts, and a memo of what was measured: the part of an environment that forks may share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from plasticity_env.common.errors import InputError
from plasticity_env.data.text import Split, TextSplits, some_blocks
from plasticity_env.model.compact.timing import time_kept
from plasticity_env.model.flops import CostTable, flop_table, parameter_table
from plasticity_env.model.loading import LoadedModel
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.model.prefix_reuse import PrefixCache
from plasticity_env.repair import Statistics, find_repair, repair_in_order, repair_sites
from plasticity_env.signals.measure import HeadSignals, gather, mean_loss, measure
from plasticity_env.signals.residual import residual_projector
from plasticity_env.signals.slopes import Projector

V = TypeVar("V")
Indices = tuple[int, ...]
STATISTICS_BYTES = 2e9  # for moments of calibration texts, beyond those of one text and its halves


@dataclass(frozen=True)
class Measurement:
    """What a state of the model is worth: signals on the calibration batch, loss (and KL, and time) on the reward batch."""

    signals: HeadSignals
    loss: float
    kl: float | None
    time_kept: float | None = None


class Memo(Generic[V]):
    """A least-recently-used store that counts its hits."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.hits, self.misses = capacity, 0, 0
        self._values: OrderedDict[Hashable, V] = OrderedDict()

    def get(self, key: Hashable) -> V | None:
        if key in self._values:
            self._values.move_to_end(key)
            self.hits += 1
            return self._values[key]
        self.misses += 1
        return None

    def put(self, key: Hashable, value: V) -> V:
        self._values[key] = value
        if len(self._values) > self.capacity:
            self._values.popitem(last=False)
        return value

    def clear(self) -> None:
        self._values.clear()


def texts_kept(model: PlasticModel, budget: float) -> int:
    """How many texts' moments to remember: two texts and their halves (6), of a model where these take more bytes one (3)."""
    gated = [site for site in model.sites if model.active[site.layer, site.columns].numel()]
    size = 8.0 * sum(len(site.output_weight()) ** 2 for site in gated)
    return 6 if 6 * size <= budget else 3


class Workbench:
    """Measures masks on one model; the same mask on the same batches and weights is measured once.

    Args:
        loaded: The model, dense, and its tokenizer.
        text: Splits packed at the model's block size.
        repair: Repair method applied to every mask before it is measured.
        obs: Whether signals include the OBS score.
        residual: Whether signals include the residual scores.
        crossfit: Whether these include the cross-fitted ones.
        batch_size: Sequences in one pass.
        want_kl: Whether measurements include the KL divergence to the dense model.
        want_latency: Whether measurements include the time that is left of a forward when pruned units are removed.
        prefix_bytes: For hidden states that forwards on reward and test text may start from; see `PrefixCache`.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        text: TextSplits,
        *,
        repair: str,
        obs: bool,
        batch_size: int,
        want_kl: bool,
        residual: bool = False,
        crossfit: bool = False,
        want_latency: bool = False,
        prefix_bytes: float = 0.0,
    ) -> None:
        self.model: PlasticModel = loaded.model
        self.tokenizer = loaded.tokenizer
        self.name = loaded.name
        self.text = text
        self.repair, self.obs, self.batch_size, self.want_kl = repair, obs, batch_size, want_kl
        self.residual, self.crossfit, self.want_latency = residual, residual and crossfit, want_latency
        self.flop_table: CostTable = flop_table(self.model, text.block_size)
        self.parameter_table: CostTable = parameter_table(self.model)
        self.memo: Memo[Measurement] = Memo(8192)
        self.prefix = PrefixCache(self.model, prefix_bytes)
        self._statistics: Memo[Statistics] = Memo(texts_kept(self.model, STATISTICS_BYTES))
        self._dense = self.model.snapshot(weights=True) if want_kl else None
        self._teachers: Memo[Tensor] = Memo(2)
        self._times: Memo[float] = Memo(8192)
        self._split_losses: Memo[float] = Memo(8192)
        self._repaired_for: Hashable = None
        self._projectors: dict[tuple[str, int], tuple[Hashable, Projector]] = {}  # what each was made for
        self._way = find_repair(repair)
        self._parallel = self._way.method is not None and not self._way.sequential

    def blocks(self, split: Split, indices: Indices) -> Tensor:
        """(B, T) token ids of some blocks of a split."""
        return self.text.blocks(split)[list(indices)]

    def measure(self, active: Tensor, calibration: Indices, reward: Indices) -> Measurement:
        """Measure a mask; afterwards the model carries it (and its repair, see `install`, unless the memo knew the answer).

        Args:
            active: (L, H) boolean.
            calibration: Blocks that score and repair.
            reward: Blocks that pay.
        """
        teacher = self.teacher(reward) if self.want_kl else None
        self.model.set_active(active)
        key = self.key(active, self.model.gates, calibration, reward)
        known = self.memo.get(key)
        if known is not None:
            return known
        self._install_repair(calibration)
        signals = self._signals(calibration)
        rewards = self.blocks("reward", reward)
        if teacher is not None:
            loss, kl = self._loss_and_kl(teacher, rewards, reward)
        else:
            loss, kl = mean_loss(self.model, rewards, self.batch_size, self.prefix, ("reward", reward)), None
        return self.memo.put(key, Measurement(replace(signals, statistics=None), loss, kl, self.time_kept(active)))

    def key(self, active: Tensor, gates: Tensor, calibration: Indices, reward: Indices) -> tuple[Hashable, ...]:
        """Under what the memo knows a mask: everything that its measurement depends on."""
        version = self.model.weight_version
        return calibration, reward, gates.numpy().tobytes(), active.numpy().tobytes(), version, self.repair

    @torch.no_grad()
    def teacher(self, reward: Indices) -> Tensor:
        """(B, T - 1, V) log-probabilities of the dense model on reward blocks, on the CPU; computed once."""
        known = self._teachers.get(reward)
        if known is not None:
            return known
        assert self._dense is not None
        now = self.model.snapshot(weights=self.model.weight_version != self._dense.version)
        self.model.restore(self._dense)
        chunks = self.blocks("reward", reward).split(self.batch_size)
        log_probs = torch.cat([self.log_probs(chunk).cpu() for chunk in chunks])
        self.model.restore(now)
        return self._teachers.put(reward, log_probs)

    def time_kept(self, active: Tensor) -> float | None:
        """Forward seconds with what a mask prunes removed, over the dense model's; measured once a mask, None if not wanted.

        Args:
            active: (L, U) boolean. A model that carries another mask is put back to that, without its repair.
        """
        if not self.want_latency or bool(active.all()):
            return 1.0 if self.want_latency else None
        key = active.numpy().tobytes()
        known = self._times.get(key)
        if known is not None:
            return known
        carried = self.model.active
        self.model.set_active(active)
        kept = time_kept(self.model, self.text.blocks("reward")[: self.batch_size])
        self.model.set_active(carried)
        return self._times.put(key, kept)

    def install(self, active: Tensor, calibration: Indices) -> None:
        """Put a mask and its repair onto the model without measuring it."""
        self.model.set_active(active)
        self._install_repair(calibration)

    def split_loss(
        self,
        split: Split,
        blocks: int | None,
        active: Tensor,
        calibration: Indices,
        text: TextSplits | None = None,
        spread: bool = False,
    ) -> float:
        """Mean loss in nats per token of a mask, repaired, on ``blocks`` blocks of a split.

        Args:
            split: Which.
            blocks: How many; None for all.
            active: (L, H) boolean.
            calibration: Blocks that repair.
            text: Another text whose split it is (repair reads this workbench's own); never remembered.
            spread: Take them evenly over the whole split instead of from its start.
        """
        self.install(active, calibration)
        if text is not None and text is not self.text:
            return mean_loss(self.model, some_blocks(text.blocks(split), blocks, spread), self.batch_size)
        repaired_by = calibration if self.repair != "none" else ()
        gates = self.model.gates.numpy().tobytes()
        key = (split, blocks, spread, gates, repaired_by, self.repair, self.model.weight_version)
        known = self._split_losses.get(key)
        if known is not None:
            return known
        ids = some_blocks(self.text.blocks(split), blocks, spread)
        loss = mean_loss(
            self.model, ids, self.batch_size, self.prefix, (split, blocks, "spread" if spread else "first")
        )
        return self._split_losses.put(key, loss)

    def reward_loss(self, active: Tensor, calibration: Indices, reward: Indices) -> float:
        """Mean loss in nats per token of a mask, repaired, on the blocks that pay: one forward, nothing else is measured.

        Args:
            active: (L, U) boolean.
            calibration: Blocks that repair.
            reward: Blocks that pay.
        """
        self.model.set_active(active)
        key = self.key(active, self.model.gates, calibration, reward)
        measured = self.memo.get(key)
        known = self._split_losses.get(key) if measured is None else measured.loss
        if known is not None:
            return known
        self.install(active, calibration)
        loss = mean_loss(self.model, self.blocks("reward", reward), self.batch_size, self.prefix, ("reward", reward))
        return self._split_losses.put(key, loss)

    def read(self, text: TextSplits) -> None:
        """Measure on another text from now on.

        Raises:
            InputError: Its blocks have another length, on which the FLOPs a token depend.
        """
        if text.block_size != self.text.block_size:
            raise InputError(
                f"{text.name!r} is cut into blocks of {text.block_size} tokens, the present text of {self.text.block_size}: "
                f"load it with block_size={self.text.block_size}"
            )
        self.text = text
        self.forget()
        self._teachers.clear()
        self._split_losses.clear()
        self._projectors.clear()
        self._repaired_for = None

    def forget(self) -> None:
        """Empty the memo, so that the next measurement is a real one."""
        self.memo.clear()
        self._split_losses.clear()
        self.prefix.clear()
        self._statistics.clear()

    def _signals(self, calibration: Indices) -> HeadSignals:
        statistics = self.model.state.gates is None and self._parallel and not self.residual
        projectors = self._residual_projectors("all", calibration) if self.residual else None
        crossfit = None
        if halves := self.halves(calibration):
            crossfit = self._residual_projectors("second", halves[1]), self._residual_projectors("first", halves[0])
        signals = measure(
            self.model,
            self.blocks("calibration", calibration),
            batch_size=self.batch_size,
            obs=self.obs,
            statistics=statistics,
            projectors=projectors,
            crossfit=crossfit,
        )
        if statistics:  # the dense stream was measured: repair needs no pass of its own
            assert signals.statistics is not None
            self._statistics.put((calibration, self.model.weight_version), signals.statistics)
        return signals

    def halves(self, calibration: Indices) -> tuple[Indices, Indices] | None:
        """The calibration blocks cut in two for the cross-fitted scores; None where these are not wanted.

        Of a single block both halves are that block: what it teaches is all there is.
        """
        if not self.crossfit:
            return None
        middle = len(calibration) // 2
        return calibration[:middle] or calibration, calibration[middle:]

    def _dense_statistics(self, calibration: Indices) -> Statistics:
        """Moments of the dense stream on calibration blocks: one forward, then remembered."""
        key = (calibration, self.model.weight_version)
        known = self._statistics.get(key)
        if known is not None:
            return known
        halves = self.halves(calibration)
        if halves and len(calibration) > 1:  # each block is read once
            parts = [self._gathered(half) for half in halves]
            return self._statistics.put(key, Statistics.pooled(parts))
        return self._gathered(calibration)

    def _gathered(self, calibration: Indices) -> Statistics:
        key = (calibration, self.model.weight_version)
        known = self._statistics.get(key)
        if known is not None:
            return known
        with self.model.dense():
            found = gather(self.model, self.blocks("calibration", calibration), self.batch_size)
        return self._statistics.put(key, found)

    def _residual_projectors(self, part: str, calibration: Indices) -> dict[int, Projector]:
        """One a site for the present mask; only sites whose units changed are solved anew.

        Args:
            part: Of the calibration blocks; what was solved for it last is kept.
            calibration: The blocks of this part.
        """
        active = self.model.active
        dense = self._dense_statistics(calibration) if part == "all" else self._gathered(calibration)
        for index, moments in dense.sites.items():
            site = self.model.sites[index]
            kept = site.kept_inputs(active)
            key = (calibration, self.model.weight_version, kept.numpy().tobytes())
            if self._projectors.get((part, index), (None,))[0] != key:
                found = residual_projector(moments.gram, kept, site.unit_width)
                self._projectors[part, index] = key, found.to(self.model.device)
        return {index: self._projectors[part, index][1] for index in dense.sites}

    def _install_repair(self, calibration: Indices) -> None:
        if self._way.method is None:
            return
        key: Hashable = (calibration, self.model.weight_version)
        if self._way.sequential:
            self._install_in_order((key, self.model.gates.numpy().tobytes()), calibration)
            return
        if self.model.state.gates is None:
            return  # whatever a site carried went when its units came back
        if key != self._repaired_for:
            self.model.undo_repair()
            self._repaired_for = key
        statistics = self._dense_statistics(calibration)
        done = set(self.model.repaired_sites)
        repair_sites(self.model, self._way.method, statistics, [site for site in statistics.sites if site not in done])

    def _install_in_order(self, key: Hashable, calibration: Indices) -> None:
        """A sequential repair is one whole: made anew unless every site still carries what it left there."""
        if (key, self._carried()) == self._repaired_for:
            return
        self._repaired_for = None
        ids = self.blocks("calibration", calibration)
        repair_in_order(self.model, ids, mlp=self._way.mlp, weighted=self._way.weighted, batch_size=self.batch_size)
        self._repaired_for = key, self._carried()

    def _carried(self) -> frozenset[int]:
        return frozenset(repair.serial for repair in self.model.repairs.values())

    @torch.no_grad()
    def _loss_and_kl(self, teacher: Tensor, ids: Tensor, reward: Indices) -> tuple[float, float]:
        losses, divergences = [], []
        pairs = list(zip(ids.split(self.batch_size), teacher.split(self.batch_size), strict=True))
        for number, (chunk, reference) in enumerate(pairs):
            with self.prefix.resumed((("reward", reward), number), len(pairs)):
                log_probs = self.log_probs(chunk)
            targets = chunk[:, 1:, None].to(log_probs.device)
            losses.append(-log_probs.gather(-1, targets).double().mean((1, 2)))
            reference = reference.to(log_probs.device)
            divergences.append(
                F.kl_div(log_probs, reference, reduction="none", log_target=True).sum(-1).double().mean(1)
            )
        return float(torch.cat(losses).mean()), float(torch.cat(divergences).mean())

    def log_probs(self, ids: Tensor) -> Tensor:
        """(B, T - 1, V) next-token log-probabilities of the model as it is, for (B, T) token ids."""
        logits = self.model.model(input_ids=ids.to(self.model.device), use_cache=False).logits
        return logits[:, :-1].float().log_softmax(-1)
