"""Measures many masks of one frozen model side by side: what `Workbench.measure` finds, in passes that carry several.

The weights are shared; what a mask changes of them, its repair, exists for the length of a pass. All that an environment
keeps is the second moments of its calibration text, as far as its share of memory goes; else they are gathered anew.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from plasticity_env.common.errors import InputError
from plasticity_env.envs.workbench import Indices, Measurement, Workbench
from plasticity_env.repair.batched import project
from plasticity_env.repair.methods import SECOND_MOMENTS_ALONE
from plasticity_env.repair.registry import REPAIRS, find_repair
from plasticity_env.signals.batched_model import Projection, projected
from plasticity_env.signals.measure import DIVERGED, HeadSignals, gather_many, measure_many, sequence_losses
from plasticity_env.signals.moments import Moments, pooled_moments
from plasticity_env.signals.packed_moments import PackedMoments, pack, unpack
from plasticity_env.signals.residual import residual_projectors
from plasticity_env.signals.slopes import Projector

CPU_TOKENS = 1024  # in one pass: larger ones leave the cache, smaller ones pay more overhead (docs/benchmark.md)
_STATE_BYTES = 4000, 620  # of an episode's state and its observation: in any case, and for each unit


@dataclass(frozen=True)
class Request:
    """A mask to measure.

    Attributes:
        active: (L, U) boolean.
        calibration: Blocks that score and repair.
        reward: Blocks that pay.
    """

    active: Tensor
    calibration: Indices
    reward: Indices


class BatchedBench:
    """Measures masks on one frozen, dense model.

    Args:
        workbench: Its model stays dense; its memo is shared.
        masks: How many are measured at a time, as a rule.
        tokens_per_pass: Tokens in one pass over the model; None takes 1024 on the CPU, all of them elsewhere.
        memory_share: Of the model's bytes, what may be kept for each mask, beside what a single environment keeps in any
            case (second moments of two calibration texts in float64). Packed they take about 3.5% of the model for each
            text; where there is no room they are gathered by one more forward whenever repair or residual scores want them.

    Raises:
        InputError: A repair that cannot be kept apart from the weights.
    """

    def __init__(self, workbench: Workbench, masks: int, tokens_per_pass: int | None, memory_share: float) -> None:
        self._way = find_repair(workbench.repair)
        if self._way.sequential:
            works = [name for name in REPAIRS if not find_repair(name).sequential]
            raise InputError(
                f"repair {workbench.repair!r} rewrites weights layer by layer, which masks in one batch cannot share: "
                f"use one of {', '.join(works)}, or vectorization_mode='sync'"
            )
        self.workbench, self.model = workbench, workbench.model
        self.model.eval()
        self.model.requires_grad_(False)
        whole = sum(parameter.numel() * parameter.element_size() for parameter in self.model.model.parameters())
        state = _STATE_BYTES[0] + _STATE_BYTES[1] * self.model.active.numel()
        self._sites = [site.index for site in self.model.sites if site.gated]
        inputs = [self.model.sites[index].output_weight().shape[0] for index in self._sites]
        self._room = masks * max(0.0, memory_share * whole - state) + 2 * sum(8 * (i * i + i) for i in inputs)
        self._packed: dict[Indices, PackedMoments] = {}
        if tokens_per_pass is None and self.model.device.type == "cpu":
            tokens_per_pass = CPU_TOKENS
        self._tokens = tokens_per_pass

    def measure(self, requests: Sequence[Request]) -> list[Measurement]:
        """Measure masks, each on its own blocks; what the memo knows is not measured again."""
        bench, keys = self.workbench, [self._key(request) for request in requests]
        found = {key: bench.memo.get(key) for key in keys}
        first = {key: index for index, key in reversed(list(enumerate(keys)))}
        lots: dict[tuple[int, int, bool], list[int]] = defaultdict(list)  # what fits into one batch
        for key, index in sorted(first.items(), key=lambda pair: pair[1]):
            if found[key] is None:
                blocks = requests[index].calibration, requests[index].reward
                lots[len(blocks[0]), len(blocks[1]), self._knows(blocks[0])].append(index)
        for (calibration, _, _), lot in lots.items():
            size = len(lot) if self._tokens is None else self._tokens // (calibration * bench.text.block_size)
            for start in range(0, len(lot), max(1, size)):
                some = lot[start : start + max(1, size)]
                for index, measurement in zip(some, self._measure([requests[i] for i in some]), strict=True):
                    found[keys[index]] = bench.memo.put(keys[index], measurement)
        return [found[key] for key in keys]  # type: ignore[misc]

    def keep_only(self, calibrations: Collection[Indices]) -> None:
        """Forget the moments of all other calibration texts."""
        kept = {part for calibration in calibrations for part in self._parts(calibration)}
        for blocks in set(self._packed) - kept:
            self._room += self._packed.pop(blocks).nbytes

    def forget(self) -> None:
        """Empty the memo and the moments, so that the next measurement is a real one."""
        self.workbench.forget()
        self.keep_only(())

    def _key(self, request: Request) -> tuple[object, ...]:
        active = request.active
        return self.workbench.key(active, active.float(), request.calibration, request.reward)

    def _measure(self, requests: Sequence[Request]) -> list[Measurement]:
        active = torch.stack([request.active for request in requests])  # (n, L, U)
        ids = torch.stack([self.workbench.blocks("calibration", request.calibration) for request in requests])
        moments, halves = self._dense_moments(requests, active, ids)
        projections = self._projections(active, moments)
        note = (
            self._way.method is not None and not moments and self._room > 0
        )  # a dense stream is measured: gather its moments on the way
        signals = measure_many(
            self.model,
            ids,
            active.float(),
            projections=projections,
            batch_size=self._sequences(len(requests), ids.shape[2]),
            obs=self.workbench.obs,
            statistics=note,
            projectors=self._projectors(active, moments) if self.workbench.residual else None,
            crossfit=(self._projectors(active, halves[1]), self._projectors(active, halves[0])) if halves else None,
            signals=self.workbench.signals,
        )
        if note:
            self._note(requests, signals)
        losses, kls = self._pay(requests, active, projections)
        return [
            Measurement(replace(seen, statistics=None), loss, kl, self.workbench.time_kept(request.active))
            for request, seen, loss, kl in zip(requests, signals, losses, kls, strict=True)
        ]

    def _sequences(self, masks: int, tokens: int) -> int:
        """Sequences of each of so many masks in one pass."""
        return 1 << 30 if self._tokens is None else max(1, self._tokens // (masks * tokens))

    # -- the dense stream and what is made of it -----------------------------------------------------------------------

    def _dense_moments(
        self, requests: Sequence[Request], active: Tensor, ids: Tensor
    ) -> tuple[dict[int, Moments], tuple[dict[int, Moments], ...]]:
        """Moments of every request's dense stream, (n, I, I) by site, and of both halves of it where these are wanted.

        Empty where none are needed.
        """
        if not self.workbench.residual and (self._way.method is None or bool(active.all())):
            return {}, ()
        parts = [self._parts(request.calibration) for request in requests]  # of equally many blocks
        if len(parts[0]) == 1:
            found = self._gathered([each[0] for each in parts], ids)
            return found, (found, found) if self.workbench.crossfit else ()
        middle = len(parts[0][0])
        first = self._gathered([each[0] for each in parts], ids[:, :middle])
        second = self._gathered([each[1] for each in parts], ids[:, middle:])
        weights = [middle / ids.shape[1], 1 - middle / ids.shape[1]]
        return {site: pooled_moments([first[site], second[site]], weights) for site in first}, (first, second)

    def _parts(self, calibration: Indices) -> tuple[Indices, ...]:
        """Of what moments are kept: the calibration blocks, or their halves."""
        halves = self.workbench.halves(calibration)
        return halves if halves and len(calibration) > 1 else (calibration,)

    def _knows(self, calibration: Indices) -> bool:
        return all(part in self._packed for part in self._parts(calibration))

    def _gathered(self, blocks: Sequence[Indices], ids: Tensor) -> dict[int, Moments]:
        """Moments of n texts, kept or gathered from their (n, B, T) tokens."""
        known = [self._packed.get(each) for each in blocks]
        if None not in known:
            return unpack(known)  # type: ignore[arg-type]
        found = gather_many(self.model, ids, self._sequences(*ids.shape[::2]))
        self._remember(blocks, found)
        return found

    def _note(self, requests: Sequence[Request], signals: Sequence[HeadSignals]) -> None:
        seen = [each.statistics.sites for each in signals if each.statistics is not None]
        device = self.model.device  # where gathered moments lie, beside which these are unpacked
        grams = {site: torch.stack([each[site].gram for each in seen]).to(device) for site in self._sites}
        means = {site: torch.stack([each[site].mean for each in seen]).to(device) for site in self._sites}
        blocks = [request.calibration for request in requests]
        self._remember(blocks, {site: Moments(grams[site], means[site]) for site in self._sites})

    def _remember(self, blocks: Sequence[Indices], moments: dict[int, Moments]) -> None:
        means = self._way.method not in SECOND_MOMENTS_ALONE
        for each, packed in zip(blocks, pack(moments, means), strict=True):
            if each not in self._packed and packed.nbytes <= self._room:
                self._room -= packed.nbytes
                self._packed[each] = packed

    def _kept(self, active: Tensor, index: int) -> Tensor:
        return self.model.sites[index].kept_inputs(active)  # (n, I)

    def _projections(self, active: Tensor, moments: dict[int, Moments]) -> dict[int, Projection]:
        """Every site that some mask repairs."""
        found: dict[int, Projection] = {}
        for index in self._sites if self._way.method is not None else ():
            site, kept = self.model.sites[index], self._kept(active, index)
            if not bool(kept.all()):
                weight = site.output_weight()
                found[index] = project(self._way.method, weight, moments[index], kept, site.unit_width)  # type: ignore[arg-type]
        return found

    def _projectors(self, active: Tensor, moments: dict[int, Moments]) -> dict[int, Projector]:
        """Of the n masks and every site, for the residual scores."""
        return {
            index: residual_projectors(
                moments[index].gram, self._kept(active, index), self.model.sites[index].unit_width
            )
            for index in self._sites
        }

    # -- the reward batch ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _pay(
        self, requests: Sequence[Request], active: Tensor, projections: dict[int, Projection]
    ) -> tuple[list[float], list[float | None]]:
        """Mean loss of each request on its reward blocks, and the KL divergence to the dense model where it is wanted."""
        ids = torch.stack([self.workbench.blocks("reward", request.reward) for request in requests])  # (n, b, T)
        losses, divergences = [], []
        for chunk in ids.split(self._sequences(len(requests), ids.shape[2]), 1):
            rows = chunk.flatten(0, 1).to(self.model.device)
            gates = active.float().to(self.model.device).repeat_interleave(chunk.shape[1], 0)
            with self.model.using(None if bool(active.all()) else gates), projected(self.model, projections):
                if not self.workbench.want_kl:
                    loss = sequence_losses(self.model, rows)
                else:
                    log_probs = self.workbench.log_probs(rows)
                    loss = -log_probs.gather(-1, rows[:, 1:, None]).double().mean((1, 2))
            losses.append(loss.double().unflatten(0, chunk.shape[:2]))
            if self.workbench.want_kl:
                reference = self.workbench.log_probs(rows)
                apart = F.kl_div(log_probs, reference, reduction="none", log_target=True).sum(-1).double().mean(1)
                divergences.append(apart.unflatten(0, chunk.shape[:2]))
        found: list[float] = torch.cat(losses, 1).mean(1).tolist()
        if not all(math.isfinite(loss) for loss in found):
            raise InputError(DIVERGED)
        return found, torch.cat(divergences, 1).mean(1).tolist() if divergences else [None] * len(found)
