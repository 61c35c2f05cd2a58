"""What masks change, site by site, and what follows from calibration text: repairs, and projectors of the residual scores."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from functools import lru_cache

from torch import Tensor

from plasticity_env.envs.measurement import Indices
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.repair.methods import find_method
from plasticity_env.repair.registry import Repair
from plasticity_env.signals.batched_model import Projection
from plasticity_env.signals.dense_moments import DenseMoments, OfSite
from plasticity_env.signals.linalg import RIDGE
from plasticity_env.signals.moments import Moments, pooled_moments
from plasticity_env.signals.residual import residual_projector
from plasticity_env.signals.slopes import Projector


class SiteSolver:
    """Solves for n masks at once; of a single one only sites whose units changed since the last one.

    Args:
        model: Model whose sites they are.
        repair: Repair whose method repairs all sites at once, or None where there is none.
        crossfit: Whether projectors are wanted of each half of the calibration blocks as well.
        moments: Moments of the dense stream.
    """

    def __init__(self, model: PlasticModel, repair: Repair | None, crossfit: bool, moments: DenseMoments) -> None:
        self._model, self._repair, self._crossfit, self._moments = model, repair, crossfit, moments
        self._kept: dict[tuple[int, int], tuple[Hashable, Projector]] = {}  # of part and site: what it was made for

    def parts(self, calibration: Indices) -> tuple[Indices, ...]:
        """What moments are kept of: the calibration blocks, or where cross-fitted scores are wanted their halves."""
        middle = len(calibration) // 2
        return (calibration[:middle], calibration[middle:]) if self._crossfit and middle else (calibration,)

    def knows(self, calibration: Indices) -> bool:
        """Whether the moments of calibration blocks are kept."""
        return all(self._moments.knows(part) for part in self.parts(calibration))

    def forget(self) -> None:
        """Solve everything anew."""
        self._kept.clear()

    def keep_only(self, calibrations: Collection[Indices]) -> None:
        """Forget the moments of all other calibration blocks."""
        self._moments.keep_only({part for calibration in calibrations for part in self.parts(calibration)})

    def solve(
        self,
        active: Tensor,
        calibrations: Sequence[Indices],
        ids: Tensor,
        batch_size: int,
        scores: bool,
        done: Collection[int] = (),
    ) -> tuple[dict[int, Projection], list[dict[int, Projector]]]:
        """Solve every site.

        Args:
            active: (n, L, U) boolean.
            calibrations: Blocks of each mask, equally many.
            ids: (n, B, T) their tokens.
            batch_size: Sequences of each in one pass, where moments must be gathered.
            scores: Whether projectors are wanted.
            done: Sites that are repaired already.

        Returns:
            Repairs by site; and projectors by site: of all blocks, then (with ``crossfit``) of the first and second half.
        """
        dense, version = self._dense(calibrations, ids, batch_size), self._model.weight_version
        method = None if self._repair is None else self._repair.method
        projections: dict[int, Projection] = {}
        projectors: list[dict[int, Projector]] = [{} for _ in dense if scores]
        for site in self._model.sites:
            if not site.gated:
                continue
            kept = site.kept_inputs(active)  # (n, I)
            if method is not None and site.index not in done and not bool(kept.all()):
                projections[site.index] = find_method(method)(
                    site.output_weight(), dense[0](site.index), kept, site.unit_width, RIDGE
                )
            key = (tuple(calibrations), version, kept.numpy().tobytes())
            for part, found in enumerate(projectors):
                last = self._kept.get((part, site.index))
                if last is None or last[0] != key:
                    last = key, residual_projector(dense[part](site.index).gram, kept, site.unit_width)
                    if len(active) == 1:  # many would take as much memory as their models
                        self._kept[part, site.index] = last
                found[site.index] = last[1]
        return projections, projectors

    def _dense(self, calibrations: Sequence[Indices], ids: Tensor, batch_size: int) -> Sequence[OfSite]:
        """Moments of all blocks, and of the first and second half of them: of a single block both are that block."""
        parts = list(zip(*map(self.parts, calibrations), strict=True))
        tokens = ids.split([len(part[0]) for part in parts], 1)
        found = [lru_cache(1)(self._moments.of(*each, batch_size)) for each in zip(parts, tokens, strict=True)]
        if len(found) == 1:
            return found * (3 if self._crossfit else 1)
        shares = [each.shape[1] / ids.shape[1] for each in tokens]

        @lru_cache(1)
        def whole(site: int) -> Moments:
            return pooled_moments([of(site) for of in found], shares)

        return [whole, *found]
