"""What a stock configuration can say: how many heads, how wide, with which biases.

Stock classes differ in what they take. GPT-2, OPT and GPT-NeoX tie the width of a head to hidden_size / heads, so fewer
heads are wider ones, padded with zeros; Llama and Gemma-3 take a head width but refuse counts that do not divide
hidden_size; Mistral, Qwen and Phi take any count. `register_form` teaches another architecture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig

from plasticity_env.common.errors import InputError
from plasticity_env.model.stock.uniform import group_shapes


@dataclass(frozen=True)
class Sizes:
    """What every layer of a stock model has in common.

    Attributes:
        heads, kv_heads, head_dim: Numbers of heads and KV heads, and the width of a head.
        neurons: Number of neurons of the MLP; None where the model has none whose neurons are counted (a mixture of experts).
    """

    heads: int
    kv_heads: int
    head_dim: int
    neurons: int | None


# (config of the model, its sizes, wanted sizes) -> a config of these sizes, or None where this form does not apply.
# A stock class that refuses the sizes raises ValueError, here or when its model is built.
Form = Callable[[Any, Sizes, Sizes], Any]


def own(head_dim: bool = True, neurons: str = "intermediate_size") -> Form:
    """The model's own class with other sizes.

    Args:
        head_dim: Whether the class takes the width of a head.
        neurons: Name that the class gives the number of MLP neurons.
    """

    def form(config: Any, dense: Sizes, wanted: Sizes) -> Any:
        return type(config).from_dict({**config.to_dict(), **_named(config, wanted, head_dim, neurons)})

    return form


def with_biases(config: Any, dense: Sizes, wanted: Sizes) -> Any:
    """The model's own class with every bias switched on that it has a switch for."""
    values = {**config.to_dict(), **_named(config, wanted, True, "intermediate_size")}
    switches = [name for name in ("attention_bias", "mlp_bias") if name in values and not values[name]]
    return type(config).from_dict({**values, **dict.fromkeys(switches, True)}) if switches else None


def with_attention_bias(config: Any, dense: Sizes, wanted: Sizes) -> Any:
    """The model's own class with biases on its attention projections."""
    values = {**config.to_dict(), **_named(config, wanted, True, "intermediate_size")}
    return type(config).from_dict({**values, "attention_bias": True}) if "attention_bias" in values else None


def as_mistral(config: Any, dense: Sizes, wanted: Sizes) -> Any:
    """A Llama without biases is a Mistral without a window, and `MistralConfig` takes any number of heads."""
    values = _shared(config, wanted, MistralConfig)
    return MistralConfig(**values, sliding_window=None)


def as_llama(config: Any, dense: Sizes, wanted: Sizes) -> Any:
    """A Mistral or Qwen2 without a window is a Llama, which can have a bias on the attention output."""
    if getattr(config, "sliding_window", None) is not None:
        return None
    return LlamaConfig(**_shared(config, wanted, LlamaConfig), attention_bias=True)


def rotating(config: Any, dense: Sizes, wanted: Sizes) -> Any:
    """GPT-NeoX's and StableLM's wider heads rotate as many of their inputs, at the same frequencies, as the narrow ones did."""
    if getattr(config, "qk_layernorm", False):  # a norm of each head would see the zeros of a wider one
        return same_heads()(config, dense, wanted)
    values = {**config.to_dict(), **_named(config, wanted, False, "intermediate_size")}
    if "num_key_value_heads" in values:
        values["num_key_value_heads"] = wanted.kv_heads
    rope = dict(values["rope_parameters"])
    rotary = int(dense.head_dim * rope["partial_rotary_factor"])
    width = config.hidden_size // wanted.heads
    if width != dense.head_dim:
        share = rotary / width
        rope["partial_rotary_factor"] = share if int(width * share) == rotary else (rotary + 0.5) / width
    return type(config).from_dict({**values, "rope_parameters": rope})


def same_heads(neurons: str = "intermediate_size") -> Form:
    """The model's own class with as many heads: what it does with all of them at once allows no fewer.

    Args:
        neurons: Name that the class gives the number of MLP neurons.
    """

    def form(config: Any, dense: Sizes, wanted: Sizes) -> Any:
        if (wanted.heads, wanted.kv_heads) != (dense.heads, dense.kv_heads):
            return None
        return type(config).from_dict({**config.to_dict(), **({neurons: wanted.neurons} if wanted.neurons else {})})

    return form


_FORMS: dict[str, tuple[Form, ...]] = {
    "gpt2": (own(head_dim=False, neurons="n_inner"),),
    "opt": (own(head_dim=False, neurons="ffn_dim"),),
    "gpt_neox": (rotating,),
    "stablelm": (rotating,),
    "olmo2": (same_heads(),),  # one norm over the queries of all heads
    "falcon": (same_heads("ffn_hidden_size"),),  # wider heads would rotate at other frequencies
    "llama": (own(), as_mistral, with_attention_bias, with_biases),
    "mistral": (own(), as_llama),
    "qwen2": (own(), as_llama),
}
_DEFAULT: tuple[Form, ...] = (own(), with_attention_bias, with_biases)


def register_form(model_type: str, *forms: Form) -> None:
    """Say in which stock configurations an architecture can be written, the preferred one first."""
    _FORMS[model_type] = forms


def find_skeleton(config: Any, dense: Sizes, wanted: Sizes, names: set[str]) -> nn.Module:
    """The first stock model of the wanted sizes that has a place for every tensor.

    Args:
        config: Configuration of the model.
        dense: Sizes of that model.
        wanted: Sizes that each layer of the stock model should have.
        names: Names of the tensors to place.

    Returns:
        The stock model on the meta device: names and shapes, no memory.

    Raises:
        InputError: No stock configuration says these sizes, or none has a place for a bias that a repair added.
    """
    homeless: tuple[nn.Module, set[str]] | None = None
    for skeleton in _skeletons(config, dense, wanted):
        have = set(skeleton.state_dict())
        if names <= have and all(name.endswith(".bias") for name in have - names):
            return skeleton
        homeless = homeless or (skeleton, names - have)
    if homeless is not None:
        skeleton, missing = homeless
        raise InputError(
            f"a stock {type(skeleton.config).__name__} has no place for {len(missing)} tensors such as "
            f"{min(missing, default='(none)')!r}: if a bias repair added them, repair with 'least_squares' instead"
        )
    raise InputError(_unsayable(config, dense, wanted))


def sayable_counts(config: Any, dense: Sizes) -> list[int]:
    """Head counts that a stock configuration of this model can say, in rising order."""
    return [
        count
        for count, shapes in group_shapes(dense.heads, dense.kv_heads).items()
        if any(_says(config, dense, Sizes(count, groups, dense.head_dim, dense.neurons)) for groups, _ in shapes)
    ]


def check_count(config: Any, dense: Sizes, count: int) -> None:
    """Refuse a number of heads per layer that no stock configuration of this model can express.

    Raises:
        InputError: If it cannot be expressed; the nearest counts that can are named.
    """
    if count not in sayable_counts(config, dense):
        raise InputError(_unsayable(config, dense, Sizes(count, count, dense.head_dim, dense.neurons)))


def _says(config: Any, dense: Sizes, wanted: Sizes) -> bool:
    return next(iter(_skeletons(config, dense, wanted)), None) is not None


def _skeletons(config: Any, dense: Sizes, wanted: Sizes) -> list[nn.Module]:
    """Every form's model on the meta device; forms that do not apply or refuse are left out."""
    skeletons = []
    for form in _FORMS.get(config.model_type, _DEFAULT):
        try:
            stock = form(config, dense, wanted)
            if stock is not None:
                with torch.device("meta"):
                    skeletons.append(AutoModelForCausalLM.from_config(stock))
        except (ValueError, StrictDataclassError):
            continue
    return skeletons


def _unsayable(config: Any, dense: Sizes, wanted: Sizes) -> str:
    counts = sayable_counts(config, dense)
    below = [count for count in counts if count < wanted.heads][-1:]
    above = [count for count in counts if count > wanted.heads][:1]
    nearest = " or ".join(str(count) for count in below + above) or "none"
    groups = f" with {dense.kv_heads} KV groups" if dense.kv_heads < dense.heads else ""
    return (
        f"{wanted.heads} heads per layer cannot be expressed in a {type(config).__name__} of width {config.hidden_size}{groups}: "
        f"nearest are {nearest}; --format compact and masked can express any"
    )


def _named(config: Any, wanted: Sizes, head_dim: bool, neurons: str) -> dict[str, int]:
    values = {"num_attention_heads": wanted.heads} | ({neurons: wanted.neurons} if wanted.neurons else {})
    if head_dim:
        values |= {"num_key_value_heads": wanted.kv_heads, "head_dim": wanted.head_dim}
    names: dict[str, str] = type(config).attribute_map
    return {names.get(name, name): value for name, value in values.items()}


def _shared(config: Any, wanted: Sizes, target: Any) -> dict[str, Any]:
    """What one class's configuration says in another's fields, at the wanted sizes."""
    values = {**config.to_dict(), **_named(config, wanted, True, "intermediate_size")}
    known = set(target().to_dict()) - {"architectures", "model_type", "sliding_window", "attention_bias"}
    return {name: value for name, value in values.items() if name in known}
