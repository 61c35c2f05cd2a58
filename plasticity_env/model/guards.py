"""No way around the wrapper: what a stock call on the wrapped model would do behind its back is refused, or does the right thing.

Each attention module refuses to run under another attention implementation while gates are closed or a pass measures, and
``save_pretrained`` of the stock model writes the masked weights, and its ``state_dict`` is refused while units are pruned: the
model on disk is the one that was measured.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from plasticity_env.common.errors import InputError
from plasticity_env.common.values import user_path
from plasticity_env.model.attention import IMPLEMENTATION, LayerGate
from plasticity_env.model.layouts import attention_blocks, cut_mlps, in_order


def refuse_other_attention(module: nn.Module, args: Any) -> None:
    """Forward pre-hook on an attention module.

    Raises:
        InputError: If its configuration names an attention implementation that does not know the gates, and gates are
            closed.
    """
    link = getattr(module, "plastic", None)
    if not isinstance(link, LayerGate) or (link.state.gates is None and link.state.recorder is None):
        return
    implementation = module.config._attn_implementation  # type: ignore[union-attr]
    if implementation != IMPLEMENTATION:
        raise InputError(
            f"attention is set to {implementation!r}, which does not know the gates, so that pruned heads would come back: call "
            f"set_attn_implementation({IMPLEMENTATION!r}); attention patterns come from plasticity_env.attention_maps"
        )


class MaskedSaver:
    """Stands as ``save_pretrained`` on a wrapped Hugging Face model, and on the models in it that hold its layers.

    Args:
        model: The Hugging Face model.
        part: The name of a model in it that is saved instead; "" for the whole.
    """

    def __init__(self, model: nn.Module, part: str = "") -> None:
        self._model, self._part = model, part

    def __call__(self, save_directory: Any, *args: Any, state_dict: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        """The same as the stock method, with the masked weights where no others are given; ``~`` is the home folder.

        Raises:
            InputError: A repair added biases that the stock configuration does not know.
        """
        if state_dict is None:
            whole = masked_weights(self._model)
            _refuse_unknown_biases(self._model, whole)
            prefix = f"{self._part}." if self._part else ""
            state_dict = {name.removeprefix(prefix): value for name, value in whole.items() if name.startswith(prefix)}
        saved = self._model.get_submodule(self._part)
        stock: Any = type(saved).save_pretrained  # type: ignore[attr-defined]
        # text, of which the stock method makes a repository's name
        folder = str(user_path(save_directory, "the folder of a model"))
        return stock(saved, folder, *args, state_dict=state_dict, **kwargs)


class GuardedState:
    """Stands as ``state_dict`` where `MaskedSaver` stands as ``save_pretrained``.

    A module around the model (the wrapper, PEFT's, one of several devices) gathers the weights as they lie there, and so does
    ``keep_vars=True``, which asks for the parameters themselves. A call for its own sake is refused while a gate is not fully
    open, because a file of these weights would be the dense model.

    Args:
        model: The Hugging Face model.
        part: The name of a model in it whose weights are asked for; "" for the whole.
    """

    def __init__(self, model: nn.Module, part: str = "") -> None:
        self._model, self._part = model, part

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The same as the stock method.

        Raises:
            InputError: Units are pruned, and nothing around the model asks.
        """
        link: LayerGate = attention_blocks(self._model)[0].module.plastic  # type: ignore[assignment]
        if link.state.gates is not None and not gathers(args, kwargs):
            raise InputError(
                "the state_dict of the model inside holds what pruned units weighed, so a file of it would be the dense model: "
                "take the wrapper's state_dict(), or write the model with plasticity_env.save_plastic or save_pretrained"
            )
        return raw_state(self._model.get_submodule(self._part), *args, **kwargs)


def gathers(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call of ``state_dict`` comes from a module around this one, or asks for the parameters (``keep_vars``)."""
    return bool(args or kwargs.get("prefix") or kwargs.get("keep_vars") or kwargs.get("destination") is not None)


def raw_state(model: nn.Module, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """The state_dict of a Hugging Face model, wrapped or not, with its weights as they lie there, pruned units included."""
    return type(model).state_dict(model, *args, **kwargs)


def saved_parts(model: nn.Module) -> list[str]:
    """Names of a Hugging Face model, which is "", and of the models in it that hold its layers: each can be saved."""
    layers = attention_blocks(model)[-1].module
    return [
        name
        for name, part in model.named_modules()
        if isinstance(part, PreTrainedModel) and any(module is layers for module in part.modules())
    ]


@torch.no_grad()
def masked_weights(model: nn.Module) -> dict[str, Tensor]:
    """Weights of a wrapped Hugging Face model under stock names: output rows of each unit are multiplied by its gate.

    Args:
        model: The Hugging Face model.

    Returns:
        Name to tensor; what is not gated shares its memory with the model.
    """
    weights: dict[str, Tensor] = {name: value.detach() for name, value in raw_state(model).items()}
    blocks = attention_blocks(model)
    link: LayerGate = blocks[0].module.plastic  # type: ignore[assignment]
    gates = link.state.gates
    if gates is None:
        return weights
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    mlps = cut_mlps(model, blocks[0].heads, gates.shape[-1] - blocks[0].heads)
    copied = set()
    for site in in_order(blocks, mlps):
        row = gates[site.layer, site.columns]
        for unit in (row != 1).nonzero().flatten().tolist():
            rows = site.output_slice(unit)
            name = names[id(rows.parameter)]
            if name not in copied:
                copied.add(name)
                weights[name] = weights[name].clone()
            rows.narrow(weights[name]).mul_(float(row[unit]))
    return weights


def _refuse_unknown_biases(model: nn.Module, weights: dict[str, Tensor]) -> None:
    with torch.device("meta"):
        known = set(type(model)(copy.deepcopy(model.config)).state_dict())  # type: ignore[operator]
    if any(".base_layer." in name for name in weights):
        raise InputError(
            "adapters lie around this model's projections, which a stock configuration does not know: save them by themselves, "
            "or merge them into the weights (peft: merge_and_unload()) first"
        )
    added = sorted(name for name in set(weights) - known if name.endswith(".bias"))
    if added:
        raise InputError(
            f"a repair gave this model biases that its stock configuration does not know ({added[0]} and others): write it with "
            "plasticity_env.save_plastic or export it as compact, or undo_repair() first"
        )
