"""A Hugging Face causal LM whose attention heads can be pruned, revived and grown.

States of a head: ACTIVE -> PRUNED (prune), PRUNED -> ACTIVE with its saved weights (revive), PRUNED -> ACTIVE with
new weights and a warm-up (grow). Nothing else. A pruned head's gate is 0 and its saved weights are kept aside.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn

from plasticity_env.attention import IMPLEMENTATION, GateState, LayerGate
from plasticity_env.errors import InputError
from plasticity_env.layouts import AttentionBlock, HeadSlice, attention_blocks

_versions = itertools.count(1)  # of the whole process: copies of a model never share a number for different weights


class PruningMode(StrEnum):
    """ADAPTIVE: pruned heads may come back. COMPRESSED: pruning is for ever."""

    ADAPTIVE = "adaptive"
    COMPRESSED = "compressed"

    @classmethod
    def parse(cls, value: str | PruningMode) -> PruningMode:
        """Read a mode by name.

        Raises:
            InputError: No such mode.
        """
        try:
            return cls(value)
        except ValueError:
            raise InputError(f"unknown mode {value!r}: use 'adaptive' or 'compressed'") from None


@dataclass(frozen=True)
class OutputRepair:
    """A repaired output projection and the way back.

    Attributes:
        base: (H*D, E) the projection before repair.
        weight: (H*D, E) the repaired projection, or None for a repair of the bias alone.
        bias: (E,) what repair added to the bias, or None.
        base_bias: (E,) the bias before repair, or None where the projection has none.
        version: Weight version for which ``base`` was taken.
    """

    base: Tensor
    weight: Tensor | None
    bias: Tensor | None
    base_bias: Tensor | None
    version: int


@dataclass(frozen=True)
class Snapshot:
    """Everything that edits and training change in a `PlasticModel`.

    Attributes:
        active, scale: (L, H) gates' mask and warm-up scale.
        warmup: (2, L, H) warm-up steps taken and in total.
        saved: Weights of pruned heads and dead KV groups.
        repairs: Repaired layers; ``weights`` hold them repaired.
        weights: A copy of all parameters, or None where the weights equal those of version ``version``.
        version: The model's weight version.
    """

    active: Tensor
    scale: Tensor
    warmup: Tensor
    saved: dict[tuple[int, int, str], list[Tensor]]
    repairs: dict[int, OutputRepair]
    weights: dict[str, Tensor] | None
    version: int


class PlasticModel(nn.Module):
    """Wraps a Hugging Face causal LM and leaves it usable as one (forward, generate, KV cache, state_dict).

    Args:
        model: A causal LM of a registered architecture; it is edited in place.
        mode: Whether pruned heads may come back.

    Raises:
        InputError: The architecture has no layout; the model is left untouched.
    """

    def __init__(self, model: nn.Module, mode: str | PruningMode = PruningMode.ADAPTIVE) -> None:
        super().__init__()
        self.mode = PruningMode.parse(mode)
        blocks = attention_blocks(model)
        self.model = model
        self.training = model.training
        self.blocks: list[AttentionBlock] = blocks
        self._state = GateState()
        for layer, block in enumerate(blocks):
            block.module.plastic = LayerGate(self._state, layer)  # type: ignore[assignment]
        model.set_attn_implementation(IMPLEMENTATION)  # type: ignore[operator]
        self._active = torch.ones(self.shape, dtype=torch.bool)
        self._scale = torch.ones(self.shape)
        self._warmup = torch.zeros(2, *self.shape)  # steps taken, steps in total
        self._saved: dict[tuple[int, int, str], list[Tensor]] = {}
        self._repairs: dict[int, OutputRepair] = {}
        self.weight_version = next(_versions)

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
        self.undo_repair()
        result = self.model.load_state_dict(*args, **kwargs)
        for layer, index, kind in self._saved:
            self._save(layer, index, kind, self._slices(layer, index, kind))
        self.weights_changed()
        return result

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PlasticModel:
        """Move what lies outside the parameters along with them (``.to(device)``, ``.half()``)."""
        super()._apply(fn, recurse)
        self._saved = {key: [fn(tensor) for tensor in tensors] for key, tensors in self._saved.items()}
        for layer, repair in self._repairs.items():
            names = ("base", "weight", "bias", "base_bias")
            moved = {name: fn(getattr(repair, name)) for name in names if getattr(repair, name) is not None}
            self._repairs[layer] = replace(repair, **moved)  # type: ignore[arg-type]
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
        """(layers, heads)."""
        return len(self.blocks), self.blocks[0].heads

    @property
    def kv_heads(self) -> int:
        """KV groups a layer (equal to the heads where keys and values are not shared)."""
        return self.blocks[0].kv_heads

    # -- gates -----------------------------------------------------------------------------------------------------

    @property
    def active(self) -> Tensor:
        """(L, H) boolean, True where a head is active; a copy."""
        return self._active.clone()

    @property
    def scale(self) -> Tensor:
        """(L, H) warm-up scale of each head, 1 when it is fully grown; a copy."""
        return self._scale.clone()

    @property
    def gates(self) -> Tensor:
        """(L, H) float: what each head's output is multiplied by."""
        return self._active * self._scale

    @property
    def state(self) -> GateState:
        """The state shared with the attention function; measuring passes borrow it."""
        return self._state

    @contextmanager
    def using(self, gates: Tensor | None, recorder: Any = None) -> Iterator[None]:
        """Run with other gates ((L, H), (B, L, H), or None for all open) and a recorder, then put the own ones back."""
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

    def _publish(self) -> None:
        gates = self.gates
        self._state.gates = None if bool((gates == 1).all()) else gates.to(self.device)

    # -- edits -----------------------------------------------------------------------------------------------------

    def prune(self, mask: Tensor) -> None:
        """Close the gates of the heads where ``mask`` is True, and keep their weights aside.

        Args:
            mask: (L, H) boolean; heads that are pruned already stay so.

        Raises:
            InputError: Wrong shape or type.
        """
        mask = self._check(mask) & self._active
        self.undo_repair(_layers(mask))
        for layer, head in mask.nonzero().tolist():
            block = self.blocks[layer]
            self._active[layer, head] = False
            self._save(layer, head, "head", [*block.query_slices(head), block.output_slice(head)])
            group = head // block.group_size
            if not self._group_active(layer, group):
                self._save(layer, group, "group", block.kv_slices(group))
        self._scale[mask] = 1.0
        self._warmup[:, mask] = 0.0
        self._publish()

    def revive(self, mask: Tensor) -> None:
        """Open the gates of pruned heads again, with the weights that they had when last pruned.

        Args:
            mask: (L, H) boolean; active heads stay as they are.

        Raises:
            InputError: Wrong shape or type, or the mode is COMPRESSED.
        """
        mask = self._check(mask) & ~self._active
        self._refuse_if_compressed("revive", mask)
        self.undo_repair(_layers(mask))
        changed = False
        for layer, head in mask.nonzero().tolist():
            block = self.blocks[layer]
            group = head // block.group_size
            changed |= self._put_back(layer, head, "head", [*block.query_slices(head), block.output_slice(head)])
            changed |= self._put_back(layer, group, "group", block.kv_slices(group))
            self._active[layer, head] = True
        if changed:
            self.weights_changed()
        self._publish()

    def grow(
        self,
        mask: Tensor,
        initial_scale: float = 0.01,
        warmup_steps: int = 100,
        generator: torch.Generator | None = None,
    ) -> None:
        """Give pruned heads new random weights and open their gates a little.

        New query, key, value and output rows are normal with the standard deviation of the layer's own rows (keys and
        values only where no other head of the group is active: shared ones stay). The gate starts at
        ``initial_scale`` and reaches 1 after ``warmup_steps`` calls of `advance_warmup`.

        Args:
            mask: (L, H) boolean; active heads stay as they are. Their older saved weights are discarded.
            initial_scale: First value of the gate, in (0, 1].
            warmup_steps: Training steps until the gate is 1; 0 opens it at once.
            generator: Source of the new weights.

        Raises:
            InputError: Wrong shape, type or scale, or the mode is COMPRESSED.
        """
        mask = self._check(mask) & ~self._active
        self._refuse_if_compressed("grow", mask)
        if not 0 < initial_scale <= 1:
            raise InputError(f"initial_scale {initial_scale} is outside (0, 1]; 0.01 is usual")
        self.undo_repair(_layers(mask))
        for layer, head in mask.nonzero().tolist():
            block = self.blocks[layer]
            group = head // block.group_size
            slices = [*block.query_slices(head), block.output_slice(head)]
            if not self._group_active(layer, group):
                slices += block.kv_slices(group)
                self._saved.pop((layer, group, "group"), None)
            self._saved.pop((layer, head, "head"), None)
            for piece in slices:
                _randomise(piece, generator)
            self._active[layer, head] = True
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
        """Prune and revive until exactly the heads where ``target`` is True are active ((L, H) boolean)."""
        target = self._check(target)
        if bool((target == self._active).all()):
            return
        self.prune(self._active & ~target)
        self.revive(target & ~self._active)

    # -- repair of output projections ----------------------------------------------------------------------------

    def apply_repair(self, layer: int, weight: Tensor | None, bias: Tensor | None) -> None:
        """Replace a layer's output projection until the next edit of this layer, or until `undo_repair`.

        Args:
            layer: Which one.
            weight: (H*D, E) the new projection, or None to leave it.
            bias: (E,) to add to the bias (the projection gets one where it has none), or None.
        """
        self.undo_repair([layer])
        block = self.blocks[layer]
        view = block.output_weight()
        base, base_bias = view.clone(), None
        if weight is not None:
            weight = weight.to(view.dtype).clone()
            view.copy_(weight)
        if bias is not None:
            bias = bias.to(view.dtype)
            if block.output.bias is None:
                block.output.bias = nn.Parameter(bias.clone(), requires_grad=False)
            else:
                base_bias = block.output.bias.data.clone()  # type: ignore[union-attr, operator]
                block.output.bias.data.add_(bias)  # type: ignore[union-attr, operator]
        self._repairs[layer] = OutputRepair(base, weight, bias, base_bias, self.weight_version)

    def undo_repair(self, layers: Iterable[int] | None = None) -> None:
        """Take repairs back: exactly where nothing trained since, else by subtracting what repair added."""
        for layer in list(self._repairs) if layers is None else layers:
            repair = self._repairs.pop(layer, None)
            if repair is None:
                continue
            block = self.blocks[layer]
            untouched = repair.version == self.weight_version
            if repair.weight is not None:
                view = block.output_weight()
                view.copy_(repair.base if untouched else view - (repair.weight - repair.base))
            if repair.bias is not None and repair.base_bias is None:
                block.output.bias = None  # type: ignore[assignment]
            elif repair.bias is not None:
                bias = block.output.bias.data  # type: ignore[union-attr]
                bias.copy_(repair.base_bias if untouched else bias - repair.bias)  # type: ignore[operator, arg-type]

    @property
    def repaired_layers(self) -> list[int]:
        """Layers whose output projection is a repaired one at the moment."""
        return sorted(self._repairs)

    # -- training ----------------------------------------------------------------------------------------------------

    @contextmanager
    def frozen_heads(self, optimizer: torch.optim.Optimizer) -> Iterator[None]:
        """Wrap ``optimizer.step()``: pruned heads' weights and optimizer moments come out bit-identical."""
        pieces = self._pruned_slices()
        kept = [(piece, piece.data.clone(), _moments(piece, optimizer)) for piece in pieces]
        yield
        for piece, data, moments in kept:
            piece.data.copy_(data)
            for name, value in optimizer.state.get(piece.parameter, {}).items():
                if isinstance(value, Tensor) and value.shape == piece.parameter.shape:
                    piece.narrow(value).copy_(moments[name]) if name in moments else piece.narrow(value).zero_()
        self.weights_changed()

    def weights_changed(self) -> None:
        """Declare that parameters changed, so that measurements of older weights are not reused."""
        self.weight_version = next(_versions)

    def forget_moments(self, mask: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Zero the optimizer's moments of heads (and of KV groups that only they use): new weights start afresh.

        Args:
            mask: (L, H) boolean.
            optimizer: Over this model's parameters.
        """
        mask = self._check(mask)
        for layer, head in mask.nonzero().tolist():
            size = self.blocks[layer].group_size
            group = head // size
            members = slice(group * size, (group + 1) * size)
            pieces = self._slices(layer, head, "head")
            if not bool((self._active[layer, members] & ~mask[layer, members]).any()):
                pieces += self._slices(layer, group, "group")
            for piece in pieces:
                for value in optimizer.state.get(piece.parameter, {}).values():
                    if isinstance(value, Tensor) and value.shape == piece.parameter.shape:
                        piece.narrow(value).zero_()

    # -- snapshots ---------------------------------------------------------------------------------------------------

    def snapshot(self, weights: bool = True) -> Snapshot:
        """Copy the state; ``weights=False`` leaves the parameters out (enough while nothing trains or grows)."""
        copies = {name: value.detach().clone() for name, value in self.model.state_dict().items()} if weights else None
        return Snapshot(
            self.active,
            self.scale,
            self._warmup.clone(),
            {key: [tensor.clone() for tensor in tensors] for key, tensors in self._saved.items()},
            dict(self._repairs),
            copies,
            self.weight_version,
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot of this model, in any mode; parameters are copied only when they changed since.

        Raises:
            InputError: The weights changed since and the snapshot holds none.
        """
        if snapshot.version != self.weight_version and snapshot.weights is None:
            raise InputError("the weights changed since this snapshot(weights=False); take one with weights=True")
        self.undo_repair()
        if snapshot.version != self.weight_version:
            assert snapshot.weights is not None
            for layer, repair in snapshot.repairs.items():  # a repair may have given a projection its first bias
                if repair.bias is not None and repair.base_bias is None:
                    self.blocks[layer].output.bias = nn.Parameter(repair.bias.clone(), requires_grad=False)
            self.model.load_state_dict(snapshot.weights)
            self.weight_version = snapshot.version
            self._repairs = dict(snapshot.repairs)
        else:
            self._redo(snapshot.repairs)
        self._active = snapshot.active.clone()
        self._scale = snapshot.scale.clone()
        self._warmup = snapshot.warmup.clone()
        self._saved = {key: [tensor.clone() for tensor in tensors] for key, tensors in snapshot.saved.items()}
        self._publish()

    # -- helpers -----------------------------------------------------------------------------------------------------

    def _check(self, mask: Tensor) -> Tensor:
        mask = torch.as_tensor(mask).cpu()
        if mask.dtype != torch.bool or tuple(mask.shape) != self.shape:
            raise InputError(
                f"a mask must be boolean of shape {self.shape} (layers, heads), "
                f"got {str(mask.dtype).removeprefix('torch.')} of shape {tuple(mask.shape)}"
            )
        return mask

    def _redo(self, repairs: dict[int, OutputRepair]) -> None:
        for layer, repair in repairs.items():
            weight = repair.weight
            if weight is not None and repair.version != self.weight_version:
                weight = self.blocks[layer].output_weight() + (weight - repair.base)
            self.apply_repair(layer, weight, repair.bias)

    def _refuse_if_compressed(self, edit: str, mask: Tensor) -> None:
        if self.mode is PruningMode.COMPRESSED and bool(mask.any()):
            raise InputError(f"cannot {edit} in compressed mode, where pruning is for ever; wrap with mode='adaptive'")

    def _group_active(self, layer: int, group: int) -> bool:
        size = self.blocks[layer].group_size
        return bool(self._active[layer, group * size : (group + 1) * size].any())

    def _slices(self, layer: int, index: int, kind: str) -> list[HeadSlice]:
        block = self.blocks[layer]
        if kind == "group":
            return block.kv_slices(index)
        return [*block.query_slices(index), block.output_slice(index)]

    def _save(self, layer: int, index: int, kind: str, slices: list[HeadSlice]) -> None:
        self._saved[layer, index, kind] = [piece.data.clone() for piece in slices]

    def _put_back(self, layer: int, index: int, kind: str, slices: list[HeadSlice]) -> bool:
        changed = False
        for piece, tensor in zip(slices, self._saved.pop((layer, index, kind), []), strict=False):
            if not torch.equal(piece.data, tensor):
                piece.data.copy_(tensor)
                changed = True
        return changed

    def _pruned_slices(self) -> list[HeadSlice]:
        slices: list[HeadSlice] = []
        for layer, head in (~self._active).nonzero().tolist():
            block = self.blocks[layer]
            slices += [*block.query_slices(head), block.output_slice(head)]
            if head % block.group_size == 0 and not self._group_active(layer, head // block.group_size):
                slices += block.kv_slices(head // block.group_size)
        return slices


def _layers(mask: Tensor) -> list[int]:
    return mask.any(1).nonzero().flatten().tolist()


def _randomise(piece: HeadSlice, generator: torch.Generator | None) -> None:
    spread = float(piece.parameter.data.float().std())
    device = generator.device if generator is not None else torch.device("cpu")
    noise = torch.randn(piece.data.shape, generator=generator, dtype=torch.float32, device=device) * spread
    piece.data.copy_(noise if piece.parameter.ndim > 1 else torch.zeros_like(noise))


def _moments(piece: HeadSlice, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        name: piece.narrow(value).clone()
        for name, value in optimizer.state.get(piece.parameter, {}).items()
        if isinstance(value, Tensor) and value.shape == piece.parameter.shape
    }
