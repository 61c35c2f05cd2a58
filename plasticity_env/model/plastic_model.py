"""A Hugging Face causal LM whose units (attention heads, and if asked for MLP neuron blocks) can be pruned and brought back.

States of a unit: ACTIVE -> PRUNED (prune), PRUNED -> ACTIVE with its saved weights (revive), PRUNED -> ACTIVE with
new weights and a warm-up (grow). Nothing else. A pruned unit's gate is 0 and its saved weights are kept aside.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from plasticity_env.common.errors import InputError
from plasticity_env.model.applied_repairs import AppliedRepairs, OutputRepair
from plasticity_env.model.attention import IMPLEMENTATION, GateState, LayerGate, MlpGate
from plasticity_env.model.frozen_training import frozen_pieces, zero_moments
from plasticity_env.model.layouts import AttentionBlock, HeadSlice, MlpBlock, Site, attention_blocks, cut_mlps
from plasticity_env.model.modes import PruningMode
from plasticity_env.model.unit_weights import Key, NewWeights, UnitWeights, random_weights

_versions = itertools.count(1)  # of the whole process: copies of a model never share a number for different weights


@dataclass(frozen=True)
class Snapshot:
    """Everything that edits and training change in a `PlasticModel`.

    Attributes:
        active, scale: (L, U) gates' mask and warm-up scale.
        warmup: (2, L, U) warm-up steps taken and in total.
        saved: Weights of pruned units and dead KV groups, by (layer, index, kind).
        repairs: Repaired sites; ``weights`` hold them repaired.
        weights: A copy of all parameters, or None where the weights equal those of version ``version``.
        version: The model's weight version.
        neuron_order: Of the weights.
    """

    active: Tensor
    scale: Tensor
    warmup: Tensor
    saved: dict[Key, list[Tensor]]
    repairs: dict[int, OutputRepair]
    weights: dict[str, Tensor] | None
    version: int
    neuron_order: str


class PlasticModel(nn.Module):
    """Wraps a Hugging Face causal LM and leaves it usable as one (forward, generate, KV cache, state_dict).

    Args:
        model: A causal LM of a registered architecture; it is edited in place.
        mode: Whether pruned units may come back.
        mlp_blocks: Equal blocks into which each layer's MLP neurons are cut; 0 leaves heads as the only units.

    All masks and gates are (L, U), U units a layer: columns [0, H) are heads, [H, U) MLP blocks.

    Attributes:
        blocks: L attention blocks.
        mlps: L MLPs.
        sites: The projections that write to the residual stream, in execution order; each knows its ``index``, ``layer``
            and ``kind``.
        neuron_order: How the neurons of each MLP lie (see `plasticity_env.strategies.neuron_order`).
        skip_flops: FLOPs per token of the U-Net skips on this model (see `plasticity_env.growth.UNetSkip`).

    Raises:
        InputError: The architecture has no layout, its MLPs no so many equal blocks, or another `PlasticModel` prunes this
            model; the model is left untouched. (One that prunes nothing is replaced: it refuses edits from then on.)
    """

    def __init__(self, model: nn.Module, mode: str | PruningMode = PruningMode.ADAPTIVE, mlp_blocks: int = 0) -> None:
        super().__init__()
        self.mode = PruningMode.parse(mode)
        blocks = attention_blocks(model)
        mlps = cut_mlps(model, blocks[0].heads, mlp_blocks)
        earlier = [block.module.plastic.state for block in blocks if hasattr(block.module, "plastic")]  # type: ignore[union-attr]
        if any(state.gates is not None for state in earlier):  # type: ignore[union-attr]
            raise InputError(
                f"this {type(model).__name__} is pruned through a PlasticModel around it: hand that one over instead"
            )
        for state in earlier:
            state.replaced = True  # type: ignore[union-attr]
        self.model = model
        self.training = model.training
        self.blocks: list[AttentionBlock] = blocks
        self.mlps: list[MlpBlock] = mlps
        self.sites: list[Site] = [site for pair in zip(blocks, mlps, strict=True) for site in pair]
        self.mlp_blocks = mlp_blocks
        self.neuron_order = "stored"
        self._state = GateState()
        for layer, block in enumerate(blocks):
            block.module.plastic = LayerGate(self._state, layer, block.heads)  # type: ignore[assignment]
        if mlp_blocks:
            for mlp in mlps:
                mlp.output.register_forward_pre_hook(MlpGate(LayerGate(self._state, mlp.layer, blocks[0].heads)))
        model.set_attn_implementation(IMPLEMENTATION)  # type: ignore[operator]
        self._active = torch.ones(self.shape, dtype=torch.bool)
        self._scale = torch.ones(self.shape)
        self._warmup = torch.zeros(2, *self.shape)  # steps taken, steps in total
        self._weights = UnitWeights(blocks, mlps)
        self._repairs = AppliedRepairs(self.sites)
        self.weight_version = next(_versions)
        self._retired = False
        self.skip_flops = 0.0

    # -- a causal LM as before -----------------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The wrapped model's forward, gates applied."""
        return self.model(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """The wrapped model's ``generate``, gates applied."""
        return self.model.generate(*args, **kwargs)  # type: ignore[operator]

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The wrapped model's state_dict, with its own (stock) names and shapes."""
        return self.model.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load stock weights into the wrapped model: repairs are taken back first, pruned heads save the new weights."""
        self.refuse_if_retired()
        self.undo_repair()
        result = self.model.load_state_dict(*args, **kwargs)
        self._weights.save_again()
        self.neuron_order = "stored"  # whatever it was, these weights store their own
        self.weights_changed()
        return result

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PlasticModel:
        """Move what lies outside the parameters along with them (``.to(device)``, ``.half()``)."""
        super()._apply(fn, recurse)
        self._weights.move(fn)
        self._repairs.move(fn)
        self._publish()
        return self

    @property
    def config(self) -> Any:
        """The Hugging Face configuration."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """Where the parameters lie."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' type."""
        return next(self.model.parameters()).dtype

    @property
    def shape(self) -> tuple[int, int]:
        """(layers, units a layer); units are heads, then MLP blocks."""
        return len(self.blocks), self.heads + self.mlp_blocks

    @property
    def heads(self) -> int:
        """Query heads a layer."""
        return self.blocks[0].heads

    @property
    def kv_heads(self) -> int:
        """KV groups a layer (equal to the heads where keys and values are not shared)."""
        return self.blocks[0].kv_heads

    # -- gates -----------------------------------------------------------------------------------------------------

    @property
    def active(self) -> Tensor:
        """(L, U) boolean, True where a head is active; a copy."""
        return self._active.clone()

    @property
    def scale(self) -> Tensor:
        """(L, U) warm-up scale of each head, 1 when it is fully grown; a copy."""
        return self._scale.clone()

    @property
    def gates(self) -> Tensor:
        """(L, U) float: what each head's output is multiplied by."""
        return self._active * self._scale

    @property
    def state(self) -> GateState:
        """The state shared with the attention function; measuring passes borrow it."""
        return self._state

    @contextmanager
    def using(self, gates: Tensor | None, recorder: Any = None) -> Iterator[None]:
        """Run with other gates ((L, U), (B, L, H), or None for all open) and a recorder, then put the own ones back."""
        self.refuse_if_retired()
        before = self._state.gates, self._state.recorder
        self._state.gates, self._state.recorder = gates, recorder
        try:
            yield
        finally:
            self._state.gates, self._state.recorder = before

    @contextmanager
    def open_gates(self) -> Iterator[None]:
        """Be the dense model for a moment: every head counts as active and fully grown (repairs stay)."""
        before = self._active, self._scale
        self._active, self._scale = torch.ones_like(self._active), torch.ones_like(self._scale)
        self._publish()
        try:
            yield
        finally:
            self._active, self._scale = before
            self._publish()

    @contextmanager
    def dense(self) -> Iterator[None]:
        """Be the dense model for a moment, as `open_gates`, and without repairs; they are there again afterwards."""
        with self._repairs.lifted(self.weight_version), self.open_gates():
            yield

    def _publish(self) -> None:
        gates = self.gates
        self._state.gates = None if bool((gates == 1).all()) else gates.to(self.device)

    # -- edits -----------------------------------------------------------------------------------------------------

    def prune(self, mask: Tensor) -> None:
        """Close the gates of the units where ``mask`` is True, and keep their weights aside.

        Args:
            mask: (L, U) boolean; units that are pruned already stay so.

        Raises:
            InputError: Wrong shape or type, or no head of the model would be left; nothing is changed.
        """
        mask = self._check(mask) & self._active
        if bool(mask.any()) and not bool((self._active & ~mask)[:, : self.heads].any()):
            raise InputError("pruning all heads of the model leaves no attention at all: keep at least one head active")
        self._undo_repairs_of(mask)
        for layer, unit in mask.nonzero().tolist():
            self._active[layer, unit] = False
            self._weights.save(layer, unit, "unit")
            if self.group_is_dead(layer, unit):
                self._weights.save(layer, unit // self.blocks[layer].group_size, "group")
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
            changed |= self._weights.put_back(layer, unit, "unit")
            if unit < self.heads:
                changed |= self._weights.put_back(layer, unit // self.blocks[layer].group_size, "group")
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
        weights: NewWeights | None = None,
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
            InputError: Wrong shape, type or scale, or the mode is COMPRESSED.
        """
        mask = self._check(mask) & ~self._active
        self._refuse_if_compressed("grow", mask)
        if not 0 < initial_scale <= 1:
            raise InputError(f"initial_scale {initial_scale} is outside (0, 1]; 0.01 is usual")
        self._undo_repairs_of(mask)
        make, fresh = weights or random_weights, []
        active, dead_groups = self._active.clone(), set()
        for layer, unit in mask.nonzero().tolist():
            pieces = self.pieces(layer, unit, "unit")
            group = unit // self.blocks[layer].group_size
            if self.group_is_dead(layer, unit) and (layer, group) not in dead_groups:
                pieces += self.pieces(layer, group, "group")
                dead_groups.add((layer, group))  # one new head brings the group's keys and values
            fresh.append((pieces, make(self, layer, unit, pieces, generator)))
        for pieces, values in fresh:
            for piece, value in zip(pieces, values, strict=True):
                piece.data.copy_(value)
        for layer, unit in mask.nonzero().tolist():
            self._weights.saved.pop((layer, unit, "unit"), None)
            if unit < self.heads:
                self._weights.saved.pop((layer, unit // self.blocks[layer].group_size, "group"), None)
        self._active = active | mask
        if mask.any():
            self.weights_changed()
            self._scale[mask] = initial_scale if warmup_steps > 0 else 1.0
            self._warmup[0][mask] = 0.0
            self._warmup[1][mask] = float(warmup_steps)
        self._publish()

    def advance_warmup(self, steps: int = 1) -> None:
        """Move every growing head's gate: scale(t) = s0 + (1 - s0) min(1, t / W)."""
        growing = self._warmup[1] > self._warmup[0]
        if not growing.any():
            return
        taken, total = self._warmup[0][growing], self._warmup[1][growing]
        start = (self._scale[growing] - taken / total) / (1 - taken / total)  # s0, from where the gate is now
        taken = torch.minimum(taken + steps, total)
        self._scale[growing] = start + (1 - start) * taken / total
        self._warmup[0][growing] = taken
        self._publish()

    def set_active(self, target: Tensor) -> None:
        """Prune and revive until exactly the heads where ``target`` is True are active ((L, U) boolean)."""
        target = self._check(target)
        if bool((target == self._active).all()):
            return
        self.revive(target & ~self._active)
        self.prune(self._active & ~target)

    # -- repair of output projections ----------------------------------------------------------------------------

    def apply_repair(self, site: int, weight: Tensor | None, bias: Tensor | None) -> None:
        """Replace a projection until the next edit of the units that it reads, or until `undo_repair`.

        Args:
            site: Index in `sites`.
            weight: (inputs, E) the new projection, or None to leave it.
            bias: (E,) to add to the bias (the projection gets one where it has none), or None.
        """
        self.refuse_if_retired()
        self._repairs.apply(site, weight, bias, self.weight_version)

    def undo_repair(self, sites: Iterable[int] | None = None) -> None:
        """Take repairs back: exactly where nothing trained since, else by subtracting what repair added."""
        self._repairs.undo(list(self._repairs.by_site) if sites is None else sites, self.weight_version)

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

    def weights_changed(self) -> None:
        """Declare that parameters changed, so that measurements of older weights are not reused."""
        self.weight_version = next(_versions)

    def forget_moments(self, mask: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Zero the optimizer's moments of heads (and of KV groups that only they use): new weights start afresh.

        Args:
            mask: (L, U) boolean.
            optimizer: Over this model's parameters.
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

    def compact(self, inplace: bool = False, optimizer: torch.optim.Optimizer | None = None) -> PreTrainedModel:
        """A physically smaller Hugging Face causal LM that computes what this model computes.

        Rows and columns of pruned units are gone, a KV group goes with its last query head, a layer without heads (or
        without neurons) loses its attention (its MLP); repairs stay, gates of growing units are folded in.

        Args:
            inplace: Give the dense weights up on the way, so that never two models lie in memory; afterwards this
                wrapper only runs the compacted model, and refuses edits.
            optimizer: Over this model's parameters; from here on it serves the compacted model's, moments cut as well.

        Raises:
            InputError: The optimizer keeps a state that cannot be cut, or the model carries U-Net skips; nothing changed.
        """
        from plasticity_env.model.compact import compact

        if self.skip_flops:
            raise InputError("a compacted model has no place for U-Net skips: call skip.remove() first")
        return compact(self, inplace, optimizer)

    def retire(self, compacted: PreTrainedModel) -> None:
        """Become a plain shell of the compacted model that took this one's weights."""
        self.model = compacted
        self._retired = True

    # -- snapshots ---------------------------------------------------------------------------------------------------

    def snapshot(self, weights: bool = True) -> Snapshot:
        """Copy the state; ``weights=False`` leaves the parameters out (enough while nothing trains or grows)."""
        self.refuse_if_retired()
        copies = {name: value.detach().clone() for name, value in self.model.state_dict().items()} if weights else None
        return Snapshot(
            self.active,
            self.scale,
            self._warmup.clone(),
            self._weights.copy(),
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
            self.weight_version = snapshot.version
            self._repairs.by_site = dict(snapshot.repairs)
        else:
            self._repairs.redo(snapshot.repairs, self.weight_version)
        self._active = snapshot.active.clone()
        self._scale = snapshot.scale.clone()
        self._warmup = snapshot.warmup.clone()
        self._weights.saved = self._weights.copy(snapshot.saved)
        self.neuron_order = snapshot.neuron_order
        self._publish()

    # -- pieces of weights -------------------------------------------------------------------------------------------

    def pieces(self, layer: int, index: int, kind: str) -> list[HeadSlice]:
        """The pieces of parameters that make a unit ("unit", column of the mask) or a KV group ("group")."""
        return self._weights.pieces(layer, index, kind)

    def saved_weights(self, layer: int, index: int, kind: str = "unit") -> list[Tensor] | None:
        """Copies of the weights kept aside for a pruned unit (or dead KV group), in the order of `pieces`; None if none."""
        saved = self._weights.saved.get((layer, index, kind))
        return None if saved is None else [tensor.clone() for tensor in saved]

    def _pruned_pieces(self) -> list[HeadSlice]:
        pieces: list[HeadSlice] = []
        for layer, unit in (~self._active).nonzero().tolist():
            pieces += self.pieces(layer, unit, "unit")
            size = self.blocks[layer].group_size
            if self.group_is_dead(layer, unit) and unit % size == 0:
                pieces += self.pieces(layer, unit // size, "group")
        return pieces

    # -- helpers -----------------------------------------------------------------------------------------------------

    def _check(self, mask: Tensor) -> Tensor:
        self.refuse_if_retired()
        mask = torch.as_tensor(mask).cpu()
        if mask.dtype != torch.bool or tuple(mask.shape) != self.shape:
            raise InputError(
                f"a mask must be boolean of shape {self.shape} (layers, {'units' if self.mlp_blocks else 'heads'}), "
                f"got {str(mask.dtype).removeprefix('torch.')} of shape {tuple(mask.shape)}"
            )
        return mask

    def refuse_if_retired(self) -> None:
        """Raise an `InputError` where ``compact(inplace=True)`` gave the dense weights up, or a newer wrapper took over."""
        if self._retired:
            raise InputError(
                "this model was compacted in place: nothing is left to edit, measure or export; wrap a dense model"
            )
        if self._state.replaced:
            raise InputError("a newer PlasticModel was put around this model and took its place: use that one")

    def _refuse_if_compressed(self, edit: str, mask: Tensor) -> None:
        if self.mode is PruningMode.COMPRESSED and bool(mask.any()):
            raise InputError(f"cannot {edit} in compressed mode, where pruning is for ever; wrap with mode='adaptive'")

    def group_is_dead(self, layer: int, unit: int) -> bool:
        """Whether a unit is a head of a KV group without an active head."""
        size = self.blocks[layer].group_size
        start = unit // size * size
        return unit < self.heads and not bool(self._active[layer, start : start + size].any())

    def _undo_repairs_of(self, mask: Tensor) -> None:
        self.undo_repair(index for index, site in enumerate(self.sites) if bool(mask[site.layer, site.columns].any()))
