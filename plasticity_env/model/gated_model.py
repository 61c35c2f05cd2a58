"""A causal LM whose units have gates: where masks are applied, and which units are active and how far they are open.

A unit is an attention head or, if asked for, a block of MLP neurons. Its output is multiplied by its gate: 0 where it is
pruned, 1 where it is active, between them while it grows. Heads are gated in the attention function
(`plasticity_env.model.attention`), MLP blocks by a hook on the MLP's output projection.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from plasticity_env.common.errors import InputError
from plasticity_env.model.attention import IMPLEMENTATION, GateState, LayerGate, MlpGate
from plasticity_env.model.contexts import evaluating, plain_mode
from plasticity_env.model.guards import GuardedState, MaskedSaver, raw_state, refuse_other_attention, saved_parts
from plasticity_env.model.layouts import (
    AttentionBlock,
    MlpBlock,
    Site,
    attention_blocks,
    attention_class,
    cut_mlps,
    in_order,
)
from plasticity_env.model.proof import probe_ids, probe_logits, prove_gates, refuse_meta, refuse_own_attention


class GatedModel(nn.Module):
    """Hangs gates on a Hugging Face causal LM and leaves it usable as one; see `PlasticModel`, which edits it.

    Args:
        model: A causal LM of a registered architecture; it is edited in place.
        mlp_blocks: Equal blocks into which each layer's MLP neurons are cut; 0 leaves heads as the only units.
        prove: Hold the wrapped model against the stock one on a probe of 64 random ids (see `plasticity_env.model.proof`).

    Raises:
        InputError: If the model is refused as in `PlasticModel`; it is left untouched.
    """

    def __init__(self, model: nn.Module, mlp_blocks: int = 0, prove: bool = True) -> None:
        super().__init__()
        blocks = attention_blocks(model)
        mlps = cut_mlps(model, blocks[0].heads, mlp_blocks)
        self._earlier: list[LayerGate | None] = [getattr(block.module, "plastic", None) for block in blocks]
        if any(link is not None and link.state.gates is not None for link in self._earlier):
            raise InputError(
                f"this {type(model).__name__} is pruned through a PlasticModel around it: pass that one instead"
            )
        refuse_meta(model)
        if not blocks[0].layout.attention_class:
            refuse_own_attention(model)
        with evaluating(model), plain_mode():
            stock = probe_logits(model, probe_ids(model)) if prove else None
        self.model = model
        self.training = model.training
        self.blocks: list[AttentionBlock] = blocks
        self.mlps: list[MlpBlock] = mlps
        self.sites: list[Site] = in_order(blocks, mlps)
        self.mlp_blocks = mlp_blocks
        self._state = GateState()
        self._handles: list[Any] = []
        self._stock_classes = [type(block.module) for block in blocks]
        self._stock_attention = model.config._attn_implementation  # type: ignore[union-attr]
        try:
            self._hang()
            if stock is not None:
                with evaluating(model), plain_mode():
                    prove_gates(model, self._state, self.sites, self.shape, stock)
        except BaseException:
            self.let_go()
            raise
        self._active = torch.ones(self.shape, dtype=torch.bool)
        self._scale = torch.ones(self.shape)
        self._warmup = torch.zeros(2, *self.shape)  # steps taken, steps in total
        self._retired = False
        self.skip_flops = 0.0

    # -- a causal LM as before -----------------------------------------------------------------------------------

    def _hang(self) -> None:
        """Put links, gates and guards onto the model."""
        for link in self._earlier:
            if link is not None:
                link.state.replaced = True
        for layer, block in enumerate(self.blocks):
            block.module.plastic = LayerGate(self._state, layer, block.heads)  # type: ignore[assignment]
            self._handles.append(block.module.register_forward_pre_hook(refuse_other_attention))
            if (ours := attention_class(block.layout)) is not None:
                block.module.__class__ = ours
        for mlp in self.mlps if self.mlp_blocks else ():
            gate = MlpGate(LayerGate(self._state, mlp.layer, self.heads))
            self._handles.append(mlp.output.register_forward_pre_hook(gate))
        self._attend_by(IMPLEMENTATION)
        for part in saved_parts(self.model):
            guarded = vars(self.model.get_submodule(part))
            guarded["save_pretrained"], guarded["state_dict"] = (
                MaskedSaver(self.model, part),
                GuardedState(self.model, part),
            )

    def let_go(self) -> None:
        """Take everything off the model that wrapping hung on it: it is as it was, an earlier wrapper's links included.

        Its weights stay as edits left them. This wrapper cannot be used any more.
        """
        for handle in self._handles:
            handle.remove()
        for block, link in zip(self.blocks, self._earlier, strict=True):
            vars(block.module).pop("plastic", None)
            if link is not None:
                link.state.replaced = False
                block.module.plastic = link  # type: ignore[assignment]
        if not any(self._earlier):
            for part in saved_parts(self.model):
                for name in ("save_pretrained", "state_dict"):
                    vars(self.model.get_submodule(part)).pop(name, None)
            for block, stock in zip(self.blocks, self._stock_classes, strict=True):
                block.module.__class__ = stock
        if self._stock_attention != IMPLEMENTATION:
            self._attend_by(str(self._stock_attention))
        self._state.replaced = True

    def _attend_by(self, name: str) -> None:
        if not self.blocks[0].layout.attention_class:
            self.model.set_attn_implementation(name)  # type: ignore[operator]
        else:
            self.model.config._attn_implementation = name  # type: ignore[union-attr]

    def forward(
        self,
        input_ids: Any = None,
        *,
        attention_mask: Any = None,
        position_ids: Any = None,
        past_key_values: Any = None,
        inputs_embeds: Any = None,
        labels: Any = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """The wrapped model's forward, gates applied; what is None is left to its own defaults."""
        given = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            "inputs_embeds": inputs_embeds,
            "labels": labels,
            "use_cache": use_cache,
        }
        return self.model(**{name: value for name, value in given.items() if value is not None}, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """What this wrapper has not is the wrapped model's: ``generation_config``, ``can_generate``, ``num_parameters``, ..."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "model" or name.startswith("__") or "model" not in self._modules:
                raise
            return getattr(self._modules["model"], name)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """Write the masked model as a stock Hugging Face folder: output rows of each unit are multiplied by its gate.

        Raises:
            InputError: A repair added biases that the stock configuration does not know; `save_plastic` keeps those, and what
                revival needs.
        """
        return self.model.save_pretrained(save_directory, *args, **kwargs)  # type: ignore[operator]

    def generate(self, *args: Any, assistant_model: Any = None, **kwargs: Any) -> Any:
        """The wrapped model's ``generate``, gates applied; an assistant model may be a wrapped one as well."""
        if isinstance(assistant_model, GatedModel):
            assistant_model = assistant_model.model
        return self.model.generate(*args, assistant_model=assistant_model, **kwargs)  # type: ignore[operator]

    def set_attn_implementation(self, attn_implementation: str | dict[str, str]) -> None:
        """Stay with the attention that knows gates.

        Raises:
            InputError: Another implementation is asked for.
        """
        if attn_implementation != IMPLEMENTATION:
            raise InputError(
                f"attention {attn_implementation!r} does not know the gates: a wrapped model attends by {IMPLEMENTATION!r}; "
                "attention patterns come from plasticity_env.attention_maps, and an exported or compacted model takes other "
                "implementations"
            )
        self._attend_by(IMPLEMENTATION)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The wrapped model's state_dict, with its own (stock) names and shapes.

        Asked by a module around this one (PEFT's, say), with the names that its modules have there, which is where it loads them.
        """
        if kwargs.get("prefix"):
            return super().state_dict(*args, **kwargs)
        return raw_state(self.model, *args, **kwargs)

    @property
    def config(self) -> Any:
        """The Hugging Face configuration."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """Device that the parameters lie on."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the parameters."""
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

    def sites_of(self, layer: int) -> list[Site]:
        """The projections of one layer that write to the residual stream, in execution order."""
        return [self.blocks[layer], *self.mlps[layer : layer + 1]]

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
    def grown_gates(self) -> Iterator[None]:
        """Be judged as what the active heads make for a moment: every gate that still opens is open."""
        before = self._scale
        self._scale = torch.ones_like(before)
        self._publish()
        try:
            yield
        finally:
            self._scale = before
            self._publish()

    def _publish(self) -> None:
        gates = self.gates
        self._state.gates = None if bool((gates == 1).all()) else gates.to(self.device)

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

    # -- helpers -----------------------------------------------------------------------------------------------------

    def group_is_dead(self, layer: int, unit: int) -> bool:
        """Whether a unit is a head of a KV group without an active head."""
        size = self.blocks[layer].group_size
        start = unit // size * size
        return unit < self.heads and not bool(self._active[layer, start : start + size].any())

    def _check(self, mask: Tensor) -> Tensor:
        self.refuse_if_retired()
        mask = torch.as_tensor(mask).cpu()
        if mask.dtype != torch.bool or tuple(mask.shape) != self.shape:
            raise InputError(
                f"a mask must be boolean of shape {self.shape} (layers, {'units' if self.mlp_blocks else 'heads'}), "
                f"got {str(mask.dtype).removeprefix('torch.')} of shape {tuple(mask.shape)}"
            )
        return mask

    def _refuse_headless(self, active: Tensor) -> None:
        if not bool(active[:, : self.heads].any()):
            raise InputError("pruning all heads of the model leaves no attention at all: keep at least one head active")

    def refuse_if_retired(self) -> None:
        """Raise an `InputError` where ``compact(inplace=True)`` gave the dense weights up, or a newer wrapper took over."""
        if self._retired:
            raise InputError(
                "this model was compacted in place: nothing is left to edit, measure or export; wrap a dense model"
            )
        if self._state.replaced:
            raise InputError("a newer PlasticModel was put around this model and took its place: use that one")

    def retire(self, compacted: PreTrainedModel) -> None:
        """Become a plain shell of the compacted model that took this one's weights."""
        self.model = compacted
        self._retired = True
