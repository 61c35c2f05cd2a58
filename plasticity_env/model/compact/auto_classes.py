"""What transformers' Auto classes know of compacted models: a configuration and a door per architecture.

`register_when_imported` costs nothing until the Auto classes are used: the configurations are made when they are imported
(before this package or after it), and a model class, with the stock class that it builds on, when a model is loaded.
"""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

import wrapt

from plasticity_env.common.errors import InputError
from plasticity_env.model.layout_table import find_layout, known_layouts

PREFIX = "compact_"
ENTRY_POINT = (
    "plasticity_env.model.compact.classes:compact_classes"  # what makes the model classes, which build on these
)


class CompactConfig:
    """Fields that a compacted model's configuration has beside those of the dense model, one entry a layer.

    Attributes:
        dense_type: ``model_type`` of the stock architecture; the other sizes in the configuration are the dense ones.
        kv_group_size: Query heads a KV group had.
        kept_heads: Query heads that are left, by their dense numbers.
        kept_neurons: How many MLP neurons are left; None where the model has no MLP of the layout's kind.
        output_biases, mlp_biases: Whether the attention's and the MLP's output projection has a bias.
    """

    dense_type: str = ""
    kv_group_size: int = 1
    kept_heads: list[list[int]] | None = None
    kept_neurons: list[int] | None = None
    output_biases: list[bool] | None = None
    mlp_biases: list[bool] | None = None


class Door:
    """Stands for a model class with the Auto classes until a model is loaded; `door_of` makes subclasses."""

    config_class: type[Any]

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """The same as `from_pretrained` of the model class."""
        return cls._model_class().from_pretrained(*args, **kwargs)

    @classmethod
    def _from_config(cls, *args: Any, **kwargs: Any) -> Any:
        return cls._model_class()._from_config(*args, **kwargs)

    @classmethod
    def _model_class(cls) -> Any:
        module, _, name = ENTRY_POINT.partition(":")
        return getattr(importlib.import_module(module), name)(cls.config_class.dense_type)[1]


def compact_config(model_type: str) -> type[Any]:
    """The configuration class of compacted models of an architecture, known to the Auto classes.

    Args:
        model_type: Model type of the dense model.

    Raises:
        InputError: The architecture has no layout, or transformers no configuration of this type.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING, AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, AutoModelForCausalLM

    find_layout(model_type)
    key = PREFIX + model_type
    if key in CONFIG_MAPPING:
        known: type[Any] = CONFIG_MAPPING[key]
        return known
    try:
        stock = CONFIG_MAPPING[model_type]
    except KeyError as error:
        raise InputError(
            f"transformers has no causal LM of type {model_type!r}: register it with its Auto classes"
        ) from error
    fields = {name: getattr(CompactConfig, name) for name in CompactConfig.__annotations__}
    body = {**fields, "__annotations__": dict(CompactConfig.__annotations__), "__module__": __name__}
    body |= {"model_type": key, "dense_type": model_type, "__doc__": CompactConfig.__doc__}
    config_class: type[Any] = type(f"Compact{stock.__name__}", (stock,), body)
    AutoConfig.register(key, config_class)
    stock_name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type, stock.__name__)
    door = type(
        f"Compact{stock_name}", (Door,), {"config_class": config_class}
    )  # pipelines look models up by these names
    AutoModelForCausalLM.register(config_class, door)  # type: ignore[arg-type]
    return config_class


def register_all(_: Any = None) -> None:
    """Make the Auto classes know compacted models of every architecture that has a layout."""
    for model_type in known_layouts():
        compact_config(model_type)


register_when_imported = partial(
    wrapt.register_post_import_hook, register_all, "transformers.models.auto.modeling_auto"
)
