"""From a masked model to a physically smaller one."""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from plasticity_env.common.errors import InputError
from plasticity_env.model.compact.classes import compact_classes
from plasticity_env.model.compact.cuts import Cut, attention_cuts, mlp_cuts
from plasticity_env.model.contexts import evaluating, plain_mode
from plasticity_env.model.gated_model import GatedModel
from plasticity_env.model.proof import probe_ids, probe_logits, prove_removal

Optimizer = torch.optim.Optimizer
# Powers of a folded scale s: with W' = s W the gradient is 1/s times the old one, its square 1/s^2 times.
_MOMENTS = {"exp_avg": -1.0, "momentum_buffer": -1.0, "exp_avg_sq": -2.0, "max_exp_avg_sq": -2.0}


@torch.no_grad()
def compact(
    model: GatedModel, inplace: bool = False, optimizer: Optimizer | None = None, *, prove: bool = True
) -> PreTrainedModel:
    """Remove what is pruned for real: rows, columns, KV groups, and whole layers' attention and MLP.

    A KV group goes with its last query head; a layer without heads (or without neurons) loses its attention (its MLP).
    Repairs stay and gates of growing units are folded into the rows that read them, so that the result computes what the
    masked model computes. Hooks that others hung on the dense model are not carried over.

    Args:
        model: The model, whose mask says what goes. It is left as it is, unless ``inplace``.
        inplace: Give the dense weights up while the new ones are made, so that never two models lie in memory; the
            masked model then only runs the compacted one, and refuses edits.
        optimizer: Optimizer over the masked model's parameters; from here on it serves the compacted model's, its
            moments cut the same way (growing units: rescaled to their folded weights). None: there is none.
        prove: Hold the result against the masked model on a probe of 64 random ids (see `plasticity_env.model.proof`).

    Returns:
        A Hugging Face causal LM with stock parameter names, on the same device and of the same type.

    Raises:
        InputError: The optimizer keeps a state that cannot be cut, the model carries U-Net skips or an adapter, or the result
            does not compute what the masked model computes; nothing changed (but for a failed proof ``inplace``, which
            finds the dense weights gone).
    """
    if model.skip_flops:
        raise InputError("a compacted model has no place for U-Net skips: call skip.remove() first")
    dense = cast(PreTrainedModel, model.model)
    cuts = model_cuts(model)
    if optimizer is not None:
        _check_optimizer(optimizer, dense)
    compacted = _empty(model)
    target = dict(compacted.named_parameters(remove_duplicate=False))
    own = dict(dense.named_parameters(remove_duplicate=False))
    unfilled = sorted(set(target) - set(own))
    if unfilled:
        raise InputError(
            f"the smaller model has {unfilled[0]!r}, which this model holds under another name or not at all: merge adapters "
            "into the weights (peft: merge_and_unload()) before it is compacted"
        )
    with evaluating(dense), plain_mode():
        masked = probe_logits(dense, probe_ids(dense)) if prove else None
    moved: dict[int, nn.Parameter | None] = {}
    sources = {id(parameter): parameter for parameter in dense.parameters()}
    for name, parameter in own.items():
        if name not in target:
            moved.setdefault(id(parameter), None)
            continue
        if moved.get(id(parameter)) is None:
            moved[id(parameter)] = _moved(parameter, cuts.get(id(parameter)), inplace)
        owner, _, leaf = name.rpartition(".")
        setattr(compacted.get_submodule(owner), leaf, moved[id(parameter)])
    buffers = dict(compacted.named_buffers())
    for name, buffer in dense.named_buffers():
        if name in buffers:
            owner, _, leaf = name.rpartition(".")
            compacted.get_submodule(owner)._buffers[leaf] = buffer.clone()
    if masked is not None:
        with evaluating(compacted), plain_mode():
            prove_removal(compacted, masked)
    if optimizer is not None:
        _carry(optimizer, sources, moved, cuts)
    if inplace:
        for parameter in sources.values():
            parameter.data = parameter.data.new_empty(0)
        model.retire(compacted)
    return compacted


def model_cuts(model: GatedModel) -> dict[int, Cut]:
    """What stays of every parameter that is cut, by its id."""
    active, gates = model.active, model.gates
    found: list[Cut] = []
    for block in model.blocks:
        heads = active[block.layer, : model.heads].nonzero().flatten().tolist()
        scale = gates[block.layer, heads]
        if len(heads) < model.heads or bool((scale != 1).any()):
            found += attention_cuts(block, heads, None if bool((scale == 1).all()) else scale.tolist())
    for mlp in model.mlps:
        kept = mlp.kept_inputs(active)
        factors = gates[mlp.layer, mlp.columns].repeat_interleave(mlp.unit_width)[kept] if mlp.count else torch.ones(0)
        if not bool(kept.all()) or bool((factors != 1).any()):
            neurons = kept.nonzero().flatten().tolist()
            found += mlp_cuts(mlp, neurons, None if bool((factors == 1).all()) else factors.tolist())
    return {id(cut.parameter): cut for cut in found}


def _empty(model: GatedModel) -> PreTrainedModel:
    """The compacted model without weights, on the meta device."""
    dense = cast(PreTrainedModel, model.model)
    active = model.active
    config_class, model_class = compact_classes(dense.config.model_type)
    values = {key: value for key, value in dense.config.to_dict().items() if key not in ("model_type", "architectures")}
    values |= {
        "kv_group_size": model.blocks[0].group_size,
        "kept_heads": [row.nonzero().flatten().tolist() for row in active[:, : model.heads]],
        "kept_neurons": [int(mlp.kept_inputs(active).sum()) for mlp in model.mlps] if model.mlps else None,
        "output_biases": [block.output.bias is not None for block in model.blocks],
        "mlp_biases": [mlp.output.bias is not None for mlp in model.mlps] if model.mlps else None,
    }
    config = config_class(**values)
    config.dtype = dense.config.dtype
    if getattr(dense.config, "_experts_implementation", None) is not None:
        config._experts_implementation = dense.config._experts_implementation
    with torch.device("meta"):
        compacted = model_class(config)
    compacted.train(dense.training)
    compacted.generation_config = copy.deepcopy(dense.generation_config)
    return compacted


def _moved(parameter: nn.Parameter, cut: Cut | None, inplace: bool) -> nn.Parameter:
    data = parameter.data
    if cut is not None:
        data = cut.of(data, 1.0)
    elif not inplace:
        data = data.clone()
    fresh = nn.Parameter(data, parameter.requires_grad)
    if inplace:
        parameter.data = data.new_empty(0)
    return fresh


def _check_optimizer(optimizer: Optimizer, dense: nn.Module) -> None:
    own = {id(parameter) for parameter in dense.parameters()}
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if (
                id(parameter) in own
                and isinstance(value, Tensor)
                and value.numel() > 1
                and value.shape != parameter.shape
            ):
                raise InputError(
                    f"{type(optimizer).__name__} keeps {name!r} of shape {tuple(value.shape)} for a parameter of shape "
                    f"{tuple(parameter.shape)}, which cannot be cut: compact without an optimizer and start a new one"
                )


def _carry(
    optimizer: Optimizer,
    sources: dict[int, nn.Parameter],
    moved: dict[int, nn.Parameter | None],
    cuts: dict[int, Cut],
) -> None:
    for group in optimizer.param_groups:
        carried = [moved.get(id(parameter), parameter) for parameter in group["params"]]
        group["params"] = [parameter for parameter in carried if parameter is not None]
    old, optimizer.state = optimizer.state, defaultdict(dict)
    for parameter in list(old):
        state: dict[str, Any] = old.pop(parameter)
        target = moved.get(id(parameter), parameter)
        cut = cuts.get(id(parameter))
        if target is None:
            continue
        for name, value in state.items():
            whole = isinstance(value, Tensor) and value.numel() > 1
            state[name] = cut.of(value, _MOMENTS.get(name, 0.0)) if whole and cut is not None else value
        optimizer.state[target] = state
