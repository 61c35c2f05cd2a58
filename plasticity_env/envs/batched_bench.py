"""Measures many masks of one frozen model side by side: what `Workbench.measure` finds, in passes that carry several.

The weights are shared. What a mask changes of them, its repair, is kept as the small factors of
`plasticity_env.repair.factors` and made into projections for the length of one pass.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from plasticity_env.caches import ByteCache
from plasticity_env.errors import InputError
from plasticity_env.repair.factors import Factor, project, solve_factors
from plasticity_env.repair.names import REPAIRS, find_repair
from plasticity_env.repair.statistics import Statistics
from plasticity_env.residual import residual_projectors
from plasticity_env.signals import DIVERGED, gather_many, measure_many, sequence_losses
from plasticity_env.variants import Projection, projected
from plasticity_env.workbench import Indices, Measurement, Workbench

CPU_TOKENS = 1024  # in one pass: larger ones leave the cache, smaller ones pay more overhead (docs/benchmark.md)
FACTOR_SHARE = 0.0175  # of the model's bytes, for the repair factors of one environment


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
        masks: How many are measured at a time, as a rule: sets how many bytes of factors are kept.
        tokens_per_pass: Tokens in one pass over the model; None takes 1024 on the CPU, all of them elsewhere.
        statistics_bytes: For moments of the dense stream, shared by all masks; those that do not fit are gathered anew,
            by one more forward, whenever a repair or a residual score asks for them.

    Raises:
        InputError: A repair that cannot be kept apart from the weights.
    """

    def __init__(self, workbench: Workbench, masks: int, tokens_per_pass: int | None, statistics_bytes: float) -> None:
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
        self.factors: ByteCache[Factor] = ByteCache(FACTOR_SHARE * whole * masks)
        self.statistics: ByteCache[Statistics] = ByteCache(statistics_bytes)
        if tokens_per_pass is None and self.model.device.type == "cpu":
            tokens_per_pass = CPU_TOKENS
        self._tokens = tokens_per_pass

    def measure(self, requests: Sequence[Request]) -> list[Measurement]:
        """Measure masks, each on its own blocks; what the memo knows is not measured again."""
        bench, keys = self.workbench, [self._key(request) for request in requests]
        found = {key: bench.memo.get(key) for key in keys}
        lots: dict[tuple[int, int], list[int]] = defaultdict(list)  # by the numbers of blocks
        for index, key in enumerate(keys):
            if found[key] is None and keys.index(key) == index:
                lots[len(requests[index].calibration), len(requests[index].reward)].append(index)
        for (calibration, _), lot in lots.items():
            size = len(lot) if self._tokens is None else self._tokens // (calibration * bench.text.block_size)
            size = max(1, size)
            for start in range(0, len(lot), size):
                some = lot[start : start + size]
                for index, measurement in zip(some, self._measure([requests[i] for i in some]), strict=True):
                    found[keys[index]] = bench.memo.put(keys[index], measurement)
        return [found[key] for key in keys]  # type: ignore[misc]

    def forget(self) -> None:
        """Empty memo, factors and statistics, so that the next measurement is a real one."""
        self.workbench.forget()
        self.factors.clear()
        self.statistics.clear()

    def _key(self, request: Request) -> tuple[object, ...]:
        active, bench = request.active, self.workbench
        return bench.key(active, active.float(), request.calibration, request.reward)

    def _measure(self, requests: Sequence[Request]) -> list[Measurement]:
        active = torch.stack([request.active for request in requests])  # (n, L, U)
        ids = torch.stack([self.workbench.blocks("calibration", request.calibration) for request in requests])
        keep = self._way.method is not None and not self.workbench.residual and bool(active.all()) and self._keeps()
        dense = [None] * len(requests) if keep else self._dense_statistics(requests, active, ids)
        projections = self._projections(requests, active, dense)
        signals = measure_many(
            self.model,
            ids,
            active.float(),
            projections=projections,
            batch_size=self._sequences(len(requests), ids.shape[2]),
            obs=self.workbench.obs,
            statistics=keep,
            projectors=self._projectors(active, dense) if self.workbench.residual else None,
        )
        for request, seen in zip(requests, signals, strict=True):
            if seen.statistics is not None:  # the dense stream was measured: repair needs no pass of its own
                self._keep(request, seen.statistics)
        losses, kls = self._pay(requests, active, projections)
        return [
            Measurement(replace(seen, statistics=None), loss, kl, self.workbench.time_kept(request.active))
            for request, seen, loss, kl in zip(requests, signals, losses, kls, strict=True)
        ]

    def _sequences(self, masks: int, tokens: int) -> int:
        """Sequences of each of so many masks in one pass."""
        return 1 << 30 if self._tokens is None else max(1, self._tokens // (masks * tokens))

    # -- the dense stream ----------------------------------------------------------------------------------------------

    def _dense_statistics(self, requests: Sequence[Request], active: Tensor, ids: Tensor) -> list[Statistics | None]:
        """Moments of each request that needs them: kept, or gathered now."""
        found = [self.statistics.get(self._stream(request)) for request in requests]
        missing = [
            index
            for index, request in enumerate(requests)
            if found[index] is None and (self.workbench.residual or self._unsolved(request))
        ]
        if missing:
            sequences = self._sequences(len(missing), ids.shape[2])
            for index, gathered in zip(missing, gather_many(self.model, ids[missing], sequences), strict=True):
                found[index] = gathered
                self._keep(requests[index], gathered)
        return found

    def _keeps(self) -> bool:
        return self.statistics.limit > 0

    def _keep(self, request: Request, statistics: Statistics) -> None:
        self.statistics.put(self._stream(request), statistics, statistics.nbytes)

    def _stream(self, request: Request) -> tuple[object, ...]:
        return request.calibration, self.model.weight_version

    # -- repair --------------------------------------------------------------------------------------------------------

    def _sites(self) -> range:
        return range(0, len(self.model.sites), 1 if self.model.mlp_blocks else 2)

    def _factor_key(self, request: Request, index: int) -> tuple[object, ...]:
        site = self.model.sites[index]
        return *self._stream(request), index, request.active[site.layer, site.columns].numpy().tobytes()

    def _pruned(self, request: Request) -> list[int]:
        """Sites with a pruned unit, where there is anything to repair."""
        if self._way.method is None:
            return []
        closed = ~request.active
        return [i for i in self._sites() if bool(closed[self.model.sites[i].layer, self.model.sites[i].columns].any())]

    def _unsolved(self, request: Request) -> bool:
        return any(self.factors.get(self._factor_key(request, index)) is None for index in self._pruned(request))

    def _projections(
        self, requests: Sequence[Request], active: Tensor, dense: Sequence[Statistics | None]
    ) -> dict[int, Projection]:
        """Every site that some request repairs, for the length of a pass."""
        factors: dict[int, list[Factor | None]] = {}
        wanted: dict[int, list[tuple[int, int]]] = {0: [], 1: []}  # by kind of site: (request, site) to be solved
        for row, request in enumerate(requests):
            for index in self._pruned(request):
                known = self.factors.get(self._factor_key(request, index))
                factors.setdefault(index, [None] * len(requests))[row] = known
                if known is None:
                    wanted[index % 2].append((row, index))
        for pairs in wanted.values():
            for (row, index), factor in zip(pairs, self._solve(pairs, active, dense), strict=True):
                factors[index][row] = factor
                self.factors.put(self._factor_key(requests[row], index), factor, factor.nbytes)
        return {
            index: project(self.model.sites[index].output_weight(), each) for index, each in sorted(factors.items())
        }

    def _solve(
        self, pairs: Sequence[tuple[int, int]], active: Tensor, dense: Sequence[Statistics | None]
    ) -> list[Factor]:
        if not pairs:
            return []
        assert self._way.method is not None
        sites = [self.model.sites[index] for _, index in pairs]
        moments = [dense[row].sites[index] for row, index in pairs]  # type: ignore[union-attr]
        kept = torch.stack([site.kept_inputs(active[row]) for (row, _), site in zip(pairs, sites, strict=True)])
        weights = [site.output_weight() for site in sites]
        return solve_factors(self._way.method, weights, moments, kept, sites[0].unit_width)

    def _projectors(self, active: Tensor, dense: Sequence[Statistics | None]) -> dict[int, Tensor]:
        """(n, I, I) of every site, for the residual scores."""
        found = {}
        for index in self._sites():
            site = self.model.sites[index]
            gram = torch.stack([each.sites[index].gram for each in dense])  # type: ignore[union-attr]
            kept = active[:, site.layer, site.columns].repeat_interleave(site.unit_width, 1)
            found[index] = residual_projectors(gram.to(self.model.device), kept, site.unit_width)
        return found

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
