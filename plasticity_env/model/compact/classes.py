"""Compacted models as Hugging Face classes: a configuration that says what is left, a model that builds itself smaller.

For every registered architecture there is a pair of classes, ``CompactLlamaConfig`` and ``CompactLlamaForCausalLM`` say,
subclasses of the stock ones. After ``import plasticity_env`` the Auto classes know them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from plasticity_env.common.errors import InputError
from plasticity_env.common.values import user_path
from plasticity_env.model.compact.auto_classes import Door, compact_config
from plasticity_env.model.compact.cuts import Cut, attention_cuts, kept_groups, mlp_cuts, resize
from plasticity_env.model.compact.folder_readme import write_readme
from plasticity_env.model.compact.modules import (
    IMPLEMENTATION,
    LayerConfig,
    Remainder,
    RemovedAttention,
    RemovedMlp,
    Selected,
    kv_runs,
)
from plasticity_env.model.layout_table import Layout, find_layout
from plasticity_env.model.layouts import AttentionBlock, MlpBlock, attention_class
from plasticity_env.model.projections import is_projection


class CompactModel:
    """Mixin of the compacted model classes: builds the stock modules, then cuts them to size."""

    _can_set_attn_implementation_cached_value = True

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        if config._attn_implementation is None:
            config._attn_implementation = IMPLEMENTATION
        _check_implementation(config, config._attn_implementation)
        super().__init__(config, *args, **kwargs)  # type: ignore[call-arg]
        shrink(cast(PreTrainedModel, self))

    def set_attn_implementation(self, attn_implementation: str | dict[str, str], *args: Any, **kwargs: Any) -> None:
        """The same as the stock method.

        Raises:
            InputError: Another one than our own, where KV groups are uneven.
        """
        _check_implementation(self.config, attn_implementation)  # type: ignore[attr-defined]
        super().set_attn_implementation(attn_implementation, *args, **kwargs)  # type: ignore[misc]

    def save_pretrained(self, save_directory: Any, is_main_process: bool = True, *args: Any, **kwargs: Any) -> None:
        """Save as the stock method does, and add a README.md that says how to load the folder and which modules take LoRA."""
        folder = user_path(save_directory, "the folder of a model")
        super().save_pretrained(str(folder), is_main_process, *args, **kwargs)  # type: ignore[misc]
        if is_main_process and folder.is_dir():
            write_readme(cast(PreTrainedModel, self), folder)

    def _get_static_cache_init_shape(self) -> None:
        """Layers differ in KV groups: a static cache takes its shapes from the first keys that it sees."""


def compact_classes(model_type: str) -> tuple[type[PreTrainedConfig], type[PreTrainedModel]]:
    """Configuration and model class of compacted models of an architecture, registered with the Auto classes.

    Args:
        model_type: Model type of the dense model.

    Raises:
        InputError: The architecture has no layout, or transformers no causal LM of this type.
    """
    config_class = compact_config(model_type)
    known: Any = MODEL_FOR_CAUSAL_LM_MAPPING[config_class]
    if not issubclass(known, Door):
        return config_class, cast(type[PreTrainedModel], known)
    try:
        stock_model = cast(type[PreTrainedModel], MODEL_FOR_CAUSAL_LM_MAPPING[config_class.__mro__[1]])
    except KeyError as error:
        raise InputError(
            f"transformers has no causal LM of type {model_type!r}: register it with its Auto classes"
        ) from error
    attention_class(find_layout(model_type))  # registers itself where the stock layers look for it
    model_body = {"config_class": config_class, "__module__": __name__, "__doc__": CompactModel.__doc__}
    model_class = type(f"Compact{stock_model.__name__}", (CompactModel, stock_model), model_body)
    AutoModelForCausalLM.register(config_class, model_class, exist_ok=True)
    return config_class, model_class


def is_compact(model: nn.Module) -> bool:
    """Whether a model is a compacted one."""
    return isinstance(model, CompactModel)


@dataclass(frozen=True)
class AttentionLeft:
    """What is left of the attention of a whole model.

    Attributes:
        heads, groups: Query heads and KV groups.
        key_groups: KV groups whose keys are computed; more than ``groups`` under a norm over all heads.
        head_dim: Width of a head.
    """

    heads: int
    groups: int
    key_groups: int
    head_dim: int


def attention_left(model: PreTrainedModel) -> AttentionLeft:
    """What is left of the attention of a compacted model."""
    config: Any = model.config
    layout = find_layout(config.dense_type)
    modules = [getattr(layer, layout.attention) for layer in attrgetter(layout.layers)(model)]
    alive = [module for module in modules if not isinstance(module, RemovedAttention)]
    width = alive[0].head_dim if hasattr(alive[0], "head_dim") else alive[0].head_size
    groups = sum(len(kept_groups(heads, config.kv_group_size)) for heads in config.kept_heads)
    whole = (
        sum(getattr(module, layout.projections[1]).out_features // width for module in alive)
        if layout.whole_norm
        else groups
    )
    return AttentionLeft(sum(map(len, config.kept_heads)), groups, whole, width)


def shrink(model: PreTrainedModel) -> None:
    """Cut the modules of a model of dense size to what its configuration says is left."""
    config: Any = model.config
    layout = find_layout(config.dense_type)
    for index, layer in enumerate(attrgetter(layout.layers)(model)):
        block = AttentionBlock(getattr(layer, layout.attention), layout, index)
        _set_bias(block.output, config.output_biases[index])
        heads = config.kept_heads[index]
        if not heads:
            setattr(layer, layout.attention, RemovedAttention(layout.output, _bias(block.output), index))
            remove_norm(layer, layout.attention_norm)
        elif len(heads) < block.heads:
            apply_cuts(attention_cuts(block, heads))
            drop_modules(block, heads)
            set_head_counts(block, heads)
        if config.kept_neurons is None:
            continue
        mlp = MlpBlock(getattr(layer, layout.mlp) if layout.mlp else layer, layout, index, block.heads, 0)
        _set_bias(mlp.output, config.mlp_biases[index])
        neurons = config.kept_neurons[index]
        if not neurons:
            remove_mlp(layer, layout, _bias(mlp.output))
            remove_norm(layer, layout.mlp_norm)
        elif neurons < mlp.width:
            apply_cuts(mlp_cuts(mlp, range(neurons)))


def drop_modules(block: AttentionBlock, heads: list[int]) -> None:
    """Take removed heads and KV groups out of lists of modules; the others keep their names, and their order."""
    for kept, per in ((heads, "head"), (kept_groups(heads, block.group_size), "group")):
        for holder in block.holders(per):  # type: ignore[arg-type]
            if isinstance(holder.held, nn.ModuleList):
                for name in set(holder.held._modules) - {str(index) for index in kept}:
                    del holder.held._modules[name]


def set_head_counts(block: AttentionBlock, heads: list[int]) -> None:
    """Tell a stock attention module how many heads and KV groups it has now."""
    module, layout = cast(Any, block.module), block.layout
    groups = kept_groups(heads, block.group_size)
    index = tuple(groups.index(head // block.group_size) for head in heads)
    runs = kv_runs(index, getattr(module, "is_causal", True))
    module.kv_runs = None if len(runs) == 1 else runs
    module.kept_heads = tuple(heads)
    module.group_sizes = tuple(index.count(group) for group in range(len(groups)))
    module.selected = Selected(tuple(heads), tuple(groups)) if layout.whole_norm else None
    counts = {"num_heads": len(heads), "split_size": len(heads) * block.head_dim}
    counts |= {"num_key_value_heads": len(groups), "num_key_value_groups": runs[0].num_key_value_groups}
    for name, count in counts.items():
        if name in vars(module):
            setattr(module, name, count)
    if layout.counts_by_config:
        module.config = LayerConfig(module.config, num_attention_heads=len(heads), num_key_value_heads=len(groups))


def remove_mlp(layer: nn.Module, layout: Layout, bias: nn.Parameter | None) -> None:
    """Take a layer's MLP away; what is left is the bias of its output projection."""
    if layout.mlp:
        setattr(layer, layout.mlp, RemovedMlp(layout.mlp_output, bias))
        return
    for name in layout.mlp_inputs:
        setattr(layer, name, nn.Identity())
    setattr(layer, layout.mlp_output, Remainder(bias))


def remove_norm(layer: nn.Module, name: str) -> None:
    """Take away a norm that nothing reads any more."""
    if name:
        setattr(layer, name, nn.Identity())


@torch.no_grad()
def apply_cuts(cuts: list[Cut]) -> None:
    """Replace parameters by what stays of them."""
    for cut in cuts:
        setattr(cut.owner, cut.name, nn.Parameter(cut.of(cut.parameter.data, 1.0), cut.parameter.requires_grad))
        if cut.name == "weight" and is_projection(cut.owner):
            resize(cut.owner)


def _set_bias(projection: nn.Module, wanted: bool) -> None:
    if wanted and projection.bias is None:
        weight = cast(nn.Parameter, projection.weight)
        projection.bias = nn.Parameter(weight.new_zeros(weight.shape[0]))  # an nn.Linear: a Conv1D always has one
    elif not wanted:
        projection.bias = None  # type: ignore[assignment]


def _bias(projection: nn.Module) -> nn.Parameter | None:
    return cast("nn.Parameter | None", projection.bias)


def _check_implementation(config: Any, implementation: Any) -> None:
    if implementation == IMPLEMENTATION:
        return
    layout = find_layout(config.dense_type)
    if layout.whole_norm or layout.attention_class:
        raise InputError(
            f"attn_implementation {implementation!r} does not know which heads of a compacted {config.dense_type} are left: "
            f"leave it unset, or use {IMPLEMENTATION!r}"
        )
    for layer, kept in enumerate(config.kept_heads):
        counts = set(Counter(head // config.kv_group_size for head in kept).values())
        if len(counts) > 1:
            raise InputError(
                f"attn_implementation {implementation!r} needs KV groups of one size, and layer {layer} has groups of "
                f"{sorted(counts)} heads: leave it unset, or use {IMPLEMENTATION!r}"
            )
