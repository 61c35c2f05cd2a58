"""A model, its texts, and a memo of what was measured: the part of an environment that forks may share.

Masks are measured as a batch; a single environment asks for one. Two ways bring a mask to the forward. A bench of one environment
lets the model itself carry the mask and its repair, so that what did not change since the last one is used again: repairs and
projectors of layers, and the reward forward up to the first changed layer. A bench of many runs masks side by side over the dense
weights; what a mask changes of them, its repair, exists for the length of a pass.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from plasticity_env.common.errors import InputError
from plasticity_env.common.lru import Memo
from plasticity_env.data.text import Split, TextSplits, some_blocks
from plasticity_env.envs.carried_repairs import CarriedRepairs
from plasticity_env.envs.measurement import Indices, Measurement, Reading, Request
from plasticity_env.envs.sharing import ALONE, CPU_TOKENS, Sharing, texts_kept
from plasticity_env.envs.site_solver import SiteSolver
from plasticity_env.model.compact.timing import time_kept
from plasticity_env.model.flops import CostTable, flop_table, parameter_table
from plasticity_env.model.loading import LoadedModel
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.model.prefix_reuse import PrefixCache
from plasticity_env.repair.parallel import carry
from plasticity_env.repair.registry import find_repair
from plasticity_env.repair.sequential import repair_in_order
from plasticity_env.signals.batched_model import Projection, projected
from plasticity_env.signals.dense_moments import DenseMoments
from plasticity_env.signals.measure import DIVERGED, log_probs, mean_loss, measure_many, sequence_losses
from plasticity_env.signals.moments import Moments
from plasticity_env.signals.slopes import Projector

Key = tuple[Hashable, ...]
REMEMBERED = 2048  # measurements: those of many episodes, some 3 kB each on a small model


class Workbench:
    """Measures masks on one model; the same mask on the same batches and weights is measured once.

    Args:
        loaded: The model, dense, and its tokenizer.
        text: Splits packed at the model's block size.
        repair: Repair method applied to every mask before it is measured.
        obs: Whether signals include the OBS score.
        residual, crossfit: Whether signals include the residual scores, and the cross-fitted ones as well.
        reading: How calibration text is read.
        batch_size: Sequences in one pass.
        want_kl: Whether measurements include the KL divergence to the dense model.
        want_latency: Whether measurements include the time that is left of a forward when pruned units are removed.
        signals: Names of registered signals that are measured besides the standard ones.
        prefix_bytes: Bytes for hidden states that forwards on reward and test text may start from; see `PrefixCache`.
        sharing: How many masks it serves, and what these may take.
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
        reading: Reading = Reading(),  # noqa: B008  frozen
        want_latency: bool = False,
        prefix_bytes: float = 0.0,
        signals: Sequence[str] = (),
        sharing: Sharing = ALONE,
    ) -> None:
        self.model: PlasticModel = loaded.model
        self.tokenizer, self.name, self.text = loaded.tokenizer, loaded.name, text
        self.repair, self.obs, self.signals = repair, obs, tuple(signals)
        self.batch_size, self.want_kl = batch_size, want_kl
        self.residual, self.crossfit, self.want_latency = residual, residual and crossfit, want_latency
        self.flop_table: CostTable = flop_table(self.model, text.block_size)
        self.parameter_table: CostTable = parameter_table(self.model)
        self._version = self.model.weight_version
        self.memo: Memo[Measurement] = Memo(REMEMBERED)
        self.prefix = PrefixCache(self.model, prefix_bytes)
        self._dense = self.model.snapshot(weights=True) if want_kl else None
        self._teachers: Memo[Tensor] = Memo(2)
        self._times, self._split_losses = Memo[float](REMEMBERED), Memo[float](REMEMBERED)
        self._own = CarriedRepairs(self.model)
        self._way = find_repair(repair)
        self._parallel = self._way.method is not None and not self._way.sequential
        # a sequential repair rewrites weights layer by layer, which masks in one batch cannot share: one after the other
        self._carries = sharing.masks == 1 or self._way.sequential
        self._moments = DenseMoments(self.model, texts_kept(self.model, sharing), sharing.masks > 1, reading.files)
        self._sampled, halves = reading.sampled, self.crossfit and not reading.apart
        self._solver = SiteSolver(self.model, self._way if self._parallel else None, halves, self._moments)
        few = sharing.tokens_per_pass is None and self.model.device.type == "cpu"
        self._tokens = CPU_TOKENS if few else sharing.tokens_per_pass

    def weights_moved(self) -> bool:
        """Whether somebody else changed the model's weights since this bench was made or `accept_weights` was called."""
        self.model.notice_changes()
        return self.model.weight_version != self._version

    def accept_weights(self) -> None:
        """Take the model's weights as they are, all units open, for the dense ones from here on."""
        self.model.make_dense()
        self._dense = self.model.snapshot(weights=True) if self.want_kl else None
        self._teachers.clear()
        self.own_change()

    def own_change(self) -> None:
        """Say that the weights' present version is of this bench's own making."""
        self._version = self.model.weight_version

    def blocks(self, split: Split, indices: Indices) -> Tensor:
        """(B, T) token ids of some blocks of a split."""
        return self.text.blocks(split)[list(indices)]

    def measure(self, requests: Sequence[Request]) -> list[Measurement]:
        """Measure masks, each on its own blocks; what the memo knows is not measured again.

        Args:
            requests: Afterwards the model of a bench of one carries the last mask (and its repair, see `install`, unless the
                memo knew the answer); that of a bench of many is dense.
        """
        if not self._carries:
            self.model.make_dense()  # another environment on it may have left its mask and its repair there
        keys = [self.key(each) for each in requests]
        found = {key: self.memo.get(key) for key in keys}
        missing = {key: each for key, each in zip(keys, requests, strict=True) if found[key] is None}
        for lot in self._lots(missing):
            for key, measurement in zip(lot, self._measure([missing[key] for key in lot]), strict=True):
                found[key] = self.memo.put(key, measurement)
        if self._carries and requests:
            self.model.set_active(requests[-1].active)
        return [found[key] for key in keys]  # type: ignore[misc]

    def key(self, request: Request) -> Key:
        """The key under which the memo knows a mask: everything that its measurement depends on."""
        active, version = request.active, self.model.weight_version
        gates = active * self.model.scale
        texts = request.calibration, request.reward, request.moments
        return (*texts, gates.numpy().tobytes(), active.numpy().tobytes(), version, self.repair)

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
        reference = torch.cat([log_probs(self.model, chunk).cpu() for chunk in chunks])
        self.model.restore(now)
        return self._teachers.put(reward, reference)

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
        assert self._carries
        self._repair(active[None], [calibration], scores=False)

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
            split: Name of the split.
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
        ids, batch = some_blocks(self.text.blocks(split), blocks, spread), (split, blocks, spread)
        loss = mean_loss(self.model, ids, self.batch_size, self.prefix, batch)
        return self._split_losses.put(key, loss)

    def reward_loss(self, request: Request) -> float:
        """Mean loss in nats per token of a mask, repaired, on the reward blocks: one forward, nothing else is measured."""
        self.model.set_active(request.active)
        key = self.key(request)
        measured = self.memo.get(key)
        known = self._split_losses.get(key) if measured is None else measured.loss
        if known is not None:
            return known
        self.install(request.active, request.fitted)
        ids, batch = self.blocks("reward", request.reward), ("reward", request.reward)
        loss = mean_loss(self.model, ids, self.batch_size, self.prefix, batch)
        return self._split_losses.put(key, loss)

    def read(self, text: TextSplits) -> None:
        """Measure on another text from now on.

        Raises:
            InputError: If its blocks have another length, on which the FLOPs per token depend.
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
        self._solver.forget()
        self._own.forget()

    def forget(self) -> None:
        """Empty the memo, so that the next measurement is a real one."""
        self.memo.clear()
        self._split_losses.clear()
        self.prefix.clear()
        self.keep_only(())

    def keep_only(self, calibrations: Collection[Indices]) -> None:
        """Forget the moments of all other calibration texts."""
        self._solver.keep_only(calibrations)

    # -- a lot of masks ------------------------------------------------------------------------------------------------

    def _lots(self, requests: Mapping[Key, Request]) -> Iterator[list[Key]]:
        """What is measured side by side: equally many blocks, moments known or not, and no more tokens than a pass holds."""
        alike: dict[Hashable, list[Key]] = defaultdict(list)
        for key, request in requests.items():
            sizes = tuple(map(len, (request.calibration, request.reward, request.moments)))
            alike[sizes, self._solver.knows(request.fitted)].append(key)
        for keys in alike.values():
            tokens = len(requests[keys[0]].calibration) * self.text.block_size
            size = 1 if self._carries else len(keys) if self._tokens is None else max(1, self._tokens // tokens)
            yield from (keys[start : start + size] for start in range(0, len(keys), size))

    def _measure(self, requests: Sequence[Request]) -> list[Measurement]:
        teacher = self.teacher(requests[0].reward) if self.want_kl and self._carries else None
        active = torch.stack([request.active for request in requests])  # (n, L, U)
        ids = torch.stack([self.blocks("calibration", request.calibration) for request in requests])  # (n, B, T)
        fitted, apart = [request.fitted for request in requests], bool(requests[0].moments)
        projections, projectors = self._repair(active, fitted, self.residual)
        gates = self.model.gates[None] if self._carries else active.float()
        dense = bool((gates == 1).all())
        signals = measure_many(
            self.model,
            ids,
            gates,
            projections=projections,
            batch_size=self._sequences(len(requests)),
            obs=self.obs,
            statistics=dense
            and self._parallel
            and not self.residual
            and not apart,  # saves repair a forward of its own
            projectors=projectors[0] if projectors else None,
            crossfit=(projectors[2], projectors[1]) if len(projectors) > 1 else None,
            held_out=apart and self.crossfit,
            sampled=self._sampled,
            signals=self.signals,
        )
        for calibration, seen in zip(fitted, signals, strict=True):
            if seen.statistics is not None:
                sites, device = seen.statistics.sites.items(), self.model.device
                there = {site: Moments(of.gram[None].to(device), of.mean[None].to(device)) for site, of in sites}
                self._moments.put([calibration], there)
        losses, kls = self._pay(requests, active, projections, teacher)
        return [
            Measurement(replace(seen, statistics=None), loss, kl, self.time_kept(request.active))
            for request, seen, loss, kl in zip(requests, signals, losses, kls, strict=True)
        ]

    def _sequences(self, masks: int) -> int:
        """Sequences of each of so many masks in one pass."""
        if self._carries:
            return self.batch_size
        return 1 << 30 if self._tokens is None else max(1, self._tokens // (masks * self.text.block_size))

    def _repair(
        self, active: Tensor, calibrations: Sequence[Indices], scores: bool
    ) -> tuple[dict[int, Projection], list[dict[int, Projector]]]:
        """Put a mask and its repair onto the model that carries it, or find those of n masks that lie side by side.

        Args:
            active: (n, L, U).
            calibrations: Blocks that each is fitted on.
            scores: Whether residual scores want projectors.

        Returns:
            Repairs of masks that lie side by side, by site, and projectors as `SiteSolver.solve` returns them.
        """
        ids = torch.stack([self.blocks("calibration", each) for each in calibrations])  # (n, B, T)
        if self._carries:
            self.model.set_active(active[0])
        if self._way.sequential:
            self._repair_in_order(calibrations[0], ids[0])
        repairs = self._parallel and not bool(active.all())  # else what a site carried went when its units came back
        if not repairs and not scores:
            return {}, []
        key = (*calibrations, self.model.weight_version)
        done = self._own.keep(key) if self._carries and repairs else self.model.repaired_sites
        projections, projectors = self._solver.solve(active, calibrations, ids, self._sequences(len(ids)), scores, done)
        if not self._carries:
            return projections, projectors
        for site, projection in projections.items():
            carry(self.model, site, projection)
        if repairs:
            self._own.note(key)
        return {}, projectors

    def _repair_in_order(self, calibration: Indices, ids: Tensor) -> None:
        """A sequential repair is one whole: made anew unless every site still carries what it left there."""
        key = calibration, self.model.weight_version, self.model.gates.numpy().tobytes()
        if self._own.whole(key):
            return
        self._own.forget()
        repair_in_order(self.model, ids, mlp=self._way.mlp, weighted=self._way.weighted, batch_size=self.batch_size)
        self._own.note(key)

    # -- the reward batch ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _pay(
        self, requests: Sequence[Request], active: Tensor, projections: dict[int, Projection], teacher: Tensor | None
    ) -> tuple[list[float], list[float | None]]:
        """Mean loss of each request on its reward blocks, and the KL divergence to the dense model where it is wanted."""
        ids = torch.stack([self.blocks("reward", request.reward) for request in requests])  # (n, b, T)
        chunks = ids.split(self._sequences(len(requests)), 1)
        losses, divergences, read = [], [], 0
        for number, chunk in enumerate(chunks):
            rows = chunk.flatten(0, 1).to(self.model.device)
            with (
                self._side_by_side(active, projections, chunk.shape[1]),
                self.prefix.resumed(("reward", requests[0].reward), number, len(chunks)),
            ):
                if not self.want_kl:
                    loss = sequence_losses(self.model, rows)
                else:
                    written = log_probs(self.model, rows)
                    loss = -written.gather(-1, rows[:, 1:, None]).double().mean((1, 2))
            losses.append(loss.double().unflatten(0, chunk.shape[:2]))
            if self.want_kl:
                seen = slice(read, read := read + chunk.shape[1])
                reference = log_probs(self.model, rows) if teacher is None else teacher[seen].to(rows.device)
                apart = F.kl_div(written, reference, reduction="none", log_target=True).sum(-1).double().mean(1)
                divergences.append(apart.unflatten(0, chunk.shape[:2]))
        found: list[float] = torch.cat(losses, 1).mean(1).tolist()
        if not all(math.isfinite(loss) for loss in found):
            raise InputError(DIVERGED)
        return found, torch.cat(divergences, 1).mean(1).tolist() if divergences else [None] * len(found)

    @contextmanager
    def _side_by_side(self, active: Tensor, projections: dict[int, Projection], each: int) -> Iterator[None]:
        """Gates and repairs of n masks for a batch of ``each`` sequences a mask, unless the model itself carries its mask."""
        if self._carries:
            yield
            return
        gates = None if bool(active.all()) else active.float().to(self.model.device).repeat_interleave(each, 0)
        with self.model.using(gates), projected(self.model, projections):
            yield
