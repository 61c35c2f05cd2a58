"""A Hugging Face causal LM whose units (attention heads, and if asked for MLP neuron blocks) can be pruned and brought back.

States of a unit: ACTIVE -> PRUNED (prune), PRUNED -> ACTIVE with its saved weights (revive), PRUNED -> ACTIVE with
new weights and a warm-up (grow). Nothing else. A pruned unit's gate is 0 and its saved weights are kept aside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from plasticity_env.common.errors import InputError
from plasticity_env.model.applied_repairs import AppliedRepairs, OutputRepair
from plasticity_env.model.checkpoint_writing import write_plastic
from plasticity_env.model.compact.build import compact
from plasticity_env.model.frozen_training import frozen_pieces, zero_moments
from plasticity_env.model.guards import gathers, raw_state
from plasticity_env.model.layouts import HeadSlice
from plasticity_env.model.modes import PruningMode
from plasticity_env.model.snapshots import Snapshot
from plasticity_env.model.state_dicts import check_marks, marked_state, read_gates, split_state
from plasticity_env.model.unit_weights import NewWeights, UnitWeights, check_shapes, random_weights
from plasticity_env.model.watched_model import WatchedModel


class PlasticModel(WatchedModel):
    """Wraps a Hugging Face causal LM and leaves it usable as one (forward, generate, KV cache, state_dict).

    Args:
        model: A causal LM of a registered architecture; it is edited in place.
        mode: Whether pruned units may come back.
        mlp_blocks: Equal blocks into which each layer's MLP neurons are cut; 0 leaves heads as the only units.
        prove: Hold the wrapped model against the stock one on a probe of 64 random ids: with open gates its logits are the
            same, and each layer's gates reach them.

    All masks and gates are (L, U), U units a layer: columns [0, H) are heads, [H, U) MLP blocks.

    Attributes:
        blocks: L attention blocks.
        mlps: L MLP blocks, one a layer.
        sites: The projections that write to the residual stream, in execution order; each knows its ``index``, ``layer``
            and ``kind``.
        neuron_order: How the neurons of each MLP lie (see `plasticity_env.strategies.neuron_order`).
        skip_flops: FLOPs per token of the U-Net skips on this model (see `plasticity_env.growth.UNetSkip`).

    Raises:
        InputError: The architecture has no layout, its attention does something that gated attention does not compute, its
            weights are no plain matrices, its MLPs no so many equal blocks, or another `PlasticModel` prunes this
            model; the model is left untouched. (One that prunes nothing is replaced: it refuses edits from then on.)
    """

    def __init__(
        self,
        model: nn.Module,
        mode: str | PruningMode = PruningMode.ADAPTIVE,
        mlp_blocks: int = 0,
        *,
        prove: bool = True,
    ) -> None:
        mode = PruningMode.parse(mode)  # before anything is hung on the model
        super().__init__(model, mlp_blocks, prove)
        self.mode = mode
        self.neuron_order = "stored"
        self.unit_weights = UnitWeights(self.blocks, self.mlps)
        self._repairs = AppliedRepairs(self.sites)
        self._stamp: list[int] | None = None
        self.weights_changed()

    # -- a causal LM as before -----------------------------------------------------------------------------------

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The model as it was measured: masked weights under stock names, and under ``plasticity.`` what the mask hides.

        Asked by a module around this one, or for the parameters themselves (``keep_vars``), with the weights as they lie there.
        """
        if gathers(args, kwargs):
            return super().state_dict(*args, **kwargs)
        return marked_state(self, self._warmup, self.unit_weights)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load weights into the wrapped model; repairs are taken back first.

        What `state_dict` gave brings its mask and its saved weights along. Under stock weights the mask stays, and pruned units
        save the new weights.

        Raises:
            InputError: The mask that comes along does not fit this model, or a repair added biases; nothing is changed.
            RuntimeError: The weights have other names or shapes; nothing is changed either.
        """
        self.refuse_if_retired()
        stock, said = split_state(state_dict)
        if said:
            check_marks(said, stock, self, self.unit_weights)
        before = self.snapshot()
        self.undo_repair()
        try:
            result = self.model.load_state_dict(stock if said else state_dict, *args, **kwargs)
        except BaseException:  # PyTorch has loaded what fits by now
            self.weights_changed()
            self.restore(before)
            raise
        if said:
            self._active, self._scale, self._warmup = read_gates(said, self)
            self.unit_weights.take_from(said)
            self._publish()
        else:
            self.unit_weights.save_again()
        self.neuron_order = "stored"  # whatever it was, these weights store their own
        self.weights_changed()
        return result

    def save_pretrained(self, save_directory: Any, *args: Any, plastic: bool = False, **kwargs: Any) -> Any:
        """As `GatedModel.save_pretrained`; ``plastic=True``: as `plasticity_env.save_plastic`, with its arguments."""
        if plastic:
            return write_plastic(self, save_directory, *args, **kwargs)
        return super().save_pretrained(save_directory, *args, **kwargs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PlasticModel:
        """Move what lies outside the parameters along with them (``.to(device)``, ``.half()``)."""
        super()._apply(fn, recurse)
        self.unit_weights.move(fn)
        self._repairs.move(fn)
        self._publish()
        return self

    @contextmanager
    def dense(self) -> Iterator[None]:
        """Be the dense model for a moment, as `open_gates`, and without repairs; they are there again afterwards."""
        with self._repairs.lifted(self.weight_version), self.open_gates():
            yield

    # -- edits -----------------------------------------------------------------------------------------------------

    def prune(self, mask: Tensor) -> None:
        """Close the gates of the units where ``mask`` is True, and keep their weights aside.

        Args:
            mask: (L, U) boolean; units that are pruned already stay so.

        Raises:
            InputError: Wrong shape or type, or no head of the model would be left; nothing is changed.
        """
        mask = self._check(mask) & self._active
        if bool(mask.any()):
            self._refuse_headless(self._active & ~mask)
        self._undo_repairs_of(mask)
        self._active = self._active & ~mask
        for layer, unit in mask.nonzero().tolist():
            self.unit_weights.save(layer, unit, "unit")
            if self.group_is_dead(layer, unit):
                self.unit_weights.save(layer, unit // self.blocks[layer].group_size, "group")
        self._scale[mask] = 1.0
        self._warmup[:, mask] = 0.0
        self._publish()

    def revive(self, mask: Tensor) -> None:
        """Open the gates of pruned units again, with the weights that they had when last pruned.

        Args:
            mask: (L, U) boolean; active units stay as they are.

        Raises:
            InputError: Wrong shape or type, or the mode is COMPRESSED.
        """
        mask = self._check(mask) & ~self._active
        self._refuse_if_compressed("revive", mask)
        self._undo_repairs_of(mask)
        changed = False
        for layer, unit in mask.nonzero().tolist():
            changed |= self.unit_weights.put_back(layer, unit, "unit")
            if unit < self.heads:
                changed |= self.unit_weights.put_back(layer, unit // self.blocks[layer].group_size, "group")
            self._active[layer, unit] = True
        if changed:
            self.weights_changed()
        self._publish()

    def grow(
        self,
        mask: Tensor,
        initial_scale: float = 0.01,
        warmup_steps: int = 100,
        generator: torch.Generator | None = None,
        weights: NewWeights[PlasticModel] | None = None,
    ) -> None:
        """Give pruned units new weights and open their gates a little.

        New rows are normal with the standard deviation of the layer's own rows, unless ``weights`` says otherwise (keys
        and values only where no other head of the group is active: shared ones stay). The gate starts at
        ``initial_scale`` and reaches 1 after ``warmup_steps`` calls of `advance_warmup`.

        Args:
            mask: (L, U) boolean; active units stay as they are. Their older saved weights are discarded.
            initial_scale: First value of the gate, in (0, 1].
            warmup_steps: Training steps until the gate is 1; 0 opens it at once.
            generator: Source of the new weights.
            weights: Makes the new weights of one unit; called for all units before any is written.

        Raises:
            InputError: Wrong shape, type or scale, or the mode is COMPRESSED; nothing is changed, nor is it where ``weights``
                fails.
        """
        mask = self._check(mask) & ~self._active
        self._refuse_if_compressed("grow", mask)
        if not 0 < initial_scale <= 1:
            raise InputError(f"initial_scale {initial_scale} is outside (0, 1]; 0.01 is usual")
        make, fresh = weights or random_weights, []
        active, dead_groups = self._active.clone(), set()
        with self.repairs_kept_on_failure():
            self._undo_repairs_of(mask)
            for layer, unit in mask.nonzero().tolist():
                pieces = self.pieces(layer, unit, "unit")
                group = unit // self.blocks[layer].group_size
                if self.group_is_dead(layer, unit) and (layer, group) not in dead_groups:
                    pieces += self.pieces(layer, group, "group")
                    dead_groups.add((layer, group))  # one new head brings the group's keys and values
                values = make(self, layer, unit, pieces, generator)
                check_shapes(values, pieces)
                fresh.append((pieces, values))
        for pieces, values in fresh:
            for piece, value in zip(pieces, values, strict=True):
                piece.data.copy_(value)
        for layer, unit in mask.nonzero().tolist():
            self.unit_weights.saved.pop((layer, unit, "unit"), None)
            if unit < self.heads:
                self.unit_weights.saved.pop((layer, unit // self.blocks[layer].group_size, "group"), None)
        self._active = active | mask
        if mask.any():
            self.weights_changed()
            self._scale[mask] = initial_scale if warmup_steps > 0 else 1.0
            self._warmup[0][mask] = 0.0
            self._warmup[1][mask] = float(warmup_steps)
        self._publish()

    def set_active(self, target: Tensor) -> None:
        """Prune and revive until exactly the heads where ``target`` is True are active ((L, U) boolean).

        Raises:
            InputError: What `prune` and `revive` refuse; nothing is changed.
        """
        target = self._check(target)
        if bool((target == self._active).all()):
            return
        self._refuse_headless(target)
        self.revive(target & ~self._active)
        self.prune(self._active & ~target)

    def make_dense(self) -> None:
        """Revive every unit and take all repairs back."""
        self.set_active(torch.ones(self.shape, dtype=torch.bool))
        self.undo_repair()

    # -- repair of output projections ----------------------------------------------------------------------------

    def apply_repair(self, site: int, weight: Tensor | None, bias: Tensor | None) -> None:
        """Replace a projection until the next edit of the units that it reads, or until `undo_repair`.

        Args:
            site: Index in `sites`.
            weight: (inputs, E) the new projection, or None to leave it.
            bias: (E,) to add to the bias (the projection gets one where it has none), or None.

        Raises:
            InputError: A weight or bias of another shape; nothing is changed.
        """
        self.refuse_if_retired()
        self._repairs.apply(site, weight, bias, self.weight_version)

    def undo_repair(self, sites: Iterable[int] | None = None) -> None:
        """Take repairs back: exactly where nothing trained since, else by subtracting what repair added."""
        self._repairs.undo(list(self._repairs.by_site) if sites is None else sites, self.weight_version)

    @contextmanager
    def repairs_kept_on_failure(self) -> Iterator[None]:
        """Take repairs back or make others inside: where that fails, those of before are there again, to the bit."""
        with self._repairs.kept_on_failure(self.weight_version):
            yield

    @property
    def repaired_sites(self) -> list[int]:
        """Indices of the sites whose projection is a repaired one at the moment."""
        return sorted(self._repairs.by_site)

    @property
    def repairs(self) -> dict[int, OutputRepair]:
        """The repairs that the model carries, by site; a copy."""
        return dict(self._repairs.by_site)

    # -- training ----------------------------------------------------------------------------------------------------

    @contextmanager
    def frozen_heads(self, optimizer: torch.optim.Optimizer) -> Iterator[None]:
        """Wrap ``optimizer.step()``: pruned heads' weights and optimizer moments come out bit-identical."""
        with frozen_pieces(self._pruned_pieces(), optimizer):
            yield
        self.weights_changed()

    def forget_moments(self, mask: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Zero the optimizer's moments of heads (and of KV groups that only they use): new weights start afresh.

        Args:
            mask: (L, U) boolean.
            optimizer: Optimizer over this model's parameters.
        """
        mask = self._check(mask)
        for layer, unit in mask.nonzero().tolist():
            zero_moments(self.pieces(layer, unit, "unit"), optimizer)
            if unit < self.heads:
                size = self.blocks[layer].group_size
                members = slice(unit // size * size, (unit // size + 1) * size)
                if not bool((self._active[layer, members] & ~mask[layer, members]).any()):
                    zero_moments(self.pieces(layer, unit // size, "group"), optimizer)

    # -- real removal --------------------------------------------------------------------------------------------------

    def compact(
        self, inplace: bool = False, optimizer: torch.optim.Optimizer | None = None, *, prove: bool = True
    ) -> PreTrainedModel:
        """A physically smaller Hugging Face causal LM that computes what this model computes; see `model.compact.compact`."""
        return compact(self, inplace, optimizer, prove=prove)

    # -- snapshots ---------------------------------------------------------------------------------------------------

    def snapshot(self, weights: bool = True) -> Snapshot:
        """Copy the state; ``weights=False`` leaves the parameters out (enough while nothing trains or grows)."""
        self.refuse_if_retired()
        copies = {name: value.detach().clone() for name, value in raw_state(self.model).items()} if weights else None
        return Snapshot(
            self.active,
            self.scale,
            self._warmup.clone(),
            self.unit_weights.copy(),
            self.repairs,
            copies,
            self.weight_version,
            self.neuron_order,
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot of this model, in any mode; parameters are copied only when they changed since.

        Raises:
            InputError: The weights changed since and the snapshot holds none.
        """
        self.refuse_if_retired()
        if snapshot.version != self.weight_version and snapshot.weights is None:
            raise InputError("the weights changed since this snapshot(weights=False); take one with weights=True")
        self.undo_repair()
        if snapshot.version != self.weight_version:
            assert snapshot.weights is not None
            self._repairs.make_room(snapshot.repairs)
            self.model.load_state_dict(snapshot.weights)
            self._repairs.by_site = dict(snapshot.repairs)
            self.weight_version, self._stamp = snapshot.version, self._counters()
        else:
            self._repairs.redo(snapshot.repairs, self.weight_version)
        self._active = snapshot.active.clone()
        self._scale = snapshot.scale.clone()
        self._warmup = snapshot.warmup.clone()
        self.unit_weights.saved = self.unit_weights.copy(snapshot.saved)
        self.neuron_order = snapshot.neuron_order
        self._publish()

    # -- pieces of weights -------------------------------------------------------------------------------------------

    def pieces(self, layer: int, index: int, kind: str) -> list[HeadSlice]:
        """The pieces of parameters that make a unit ("unit", column of the mask) or a KV group ("group")."""
        return self.unit_weights.pieces(layer, index, kind)

    def saved_weights(self, layer: int, index: int, kind: str = "unit") -> list[Tensor] | None:
        """Copies of the weights kept aside for a pruned unit (or dead KV group), in the order of `pieces`; None if none."""
        saved = self.unit_weights.saved.get((layer, index, kind))
        return None if saved is None else [tensor.clone() for tensor in saved[: len(self.pieces(layer, index, kind))]]

    def _pruned_pieces(self) -> list[HeadSlice]:
        pieces: list[HeadSlice] = []
        for layer, unit in (~self._active).nonzero().tolist():
            pieces += self.unit_weights.all_pieces(layer, unit, "unit")
            size = self.blocks[layer].group_size
            if self.group_is_dead(layer, unit) and unit % size == 0:
                pieces += self.unit_weights.all_pieces(layer, unit // size, "group")
        return pieces

    # -- helpers -----------------------------------------------------------------------------------------------------

    def _refuse_if_compressed(self, edit: str, mask: Tensor) -> None:
        if self.mode is PruningMode.COMPRESSED and bool(mask.any()):
            raise InputError(f"cannot {edit} in compressed mode, where pruning is permanent; wrap with mode='adaptive'")

    def _undo_repairs_of(self, mask: Tensor) -> None:
        self.undo_repair(index for index, site in enumerate(self.sites) if bool(mask[site.layer, site.columns].any()))
