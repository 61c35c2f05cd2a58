"""A loaded model and its text as arrays, so that processes of one machine can read one copy of the weights.

What is packed holds numpy arrays (pickle protocol 5 moves them out of band: Ray's object store keeps one copy a machine and
hands out views), the configuration, the tokenizer and the blocks of text that are wanted. Opening builds the model without
initialising it and points its parameters at the arrays. Only projections that repair rewrites in place become copies; a
model that is to be trained is copied whole.
"""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedTokenizerBase
from transformers.initialization import no_init_weights

from plasticity_env.data.text import Split, TextSplits
from plasticity_env.model.guards import raw_state
from plasticity_env.model.loading import LOADING, LoadedModel, check_device
from plasticity_env.model.plastic_model import PlasticModel


@dataclass(frozen=True)
class PackedModel:
    """What `pack` makes of a model and its text.

    Attributes:
        name: Name of the model.
        config: Hugging Face configuration.
        tokenizer: Tokenizer that goes with it.
        mode: Pruning mode of the wrapper.
        mlp_blocks: Blocks of MLP neurons a layer that are units.
        neuron_order: How the neurons lie.
        weights: Array and name of its type, by stock name; tied weights are one array.
        text_name, block_size: Name and block size of the text.
        blocks: (n, T) token ids of each split that was asked for.
        documents: (n,) number of each block's document, of those splits whose documents are told apart.
        key: Key by which a process recognises what it has opened already.
    """

    name: str
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    mode: str
    mlp_blocks: int
    neuron_order: str
    weights: dict[str, tuple[np.ndarray, str]] = field(repr=False)
    text_name: str
    block_size: int
    blocks: dict[Split, np.ndarray] = field(repr=False)
    documents: dict[Split, np.ndarray] = field(repr=False)
    key: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, tied ones once."""
        arrays = {id(array): array for array, _ in self.weights.values()}
        return sum(array.nbytes for array in [*arrays.values(), *self.blocks.values()])

    def open(self, writable: bool = False, device: str | torch.device = "cpu") -> tuple[LoadedModel, TextSplits]:
        """Build the model on these arrays.

        Args:
            writable: Copy all weights: for training, or for growth. Else only what repair writes is copied, and everything
                else is read where it lies.
            device: Device that the model goes to; anything but the CPU copies.

        Returns:
            Model, dense, and text with the packed splits.
        """
        with LOADING, no_init_weights():
            hf_model = AutoModelForCausalLM.from_config(self.config, dtype=_dtype(next(iter(self.weights.values()))[1]))
        shared: dict[int, Tensor] = {}  # tied weights stay tied
        for array, dtype in self.weights.values():
            shared.setdefault(id(array), _tensor(array, dtype))
        state = {name: shared[id(array)] for name, (array, _) in self.weights.items()}
        hf_model.load_state_dict(state, assign=True)
        hf_model.tie_weights()
        if writable:
            for parameter in hf_model.parameters():
                parameter.data = parameter.data.clone()
            for buffer in hf_model.buffers():
                buffer.data = buffer.data.clone()
        model = PlasticModel(hf_model.eval().to(check_device(device)), self.mode, self.mlp_blocks)  # type: ignore[arg-type]
        model.neuron_order = self.neuron_order
        if not writable:
            for site in model.sites:
                for parameter in site.output.parameters():
                    parameter.data = parameter.data.clone()
        text = TextSplits(
            self.text_name, self.block_size, self.tokenizer, {}, _blocks(self.blocks), _blocks(self.documents)
        )
        return LoadedModel(model, self.tokenizer, self.name), text


def pack(loaded: LoadedModel, text: TextSplits, splits: Collection[Split]) -> PackedModel:
    """Put a model and its text into arrays; on the CPU they are views of the model's own weights.

    Args:
        loaded: The model, dense and without repairs.
        text: Its text.
        splits: Splits that whoever opens it will read.
    """
    model = loaded.model
    model.undo_repair()
    arrays: dict[tuple[int, tuple[int, ...], tuple[int, ...]], np.ndarray] = {}
    weights = {}
    for name, value in raw_state(model.model).items():
        place = value.data_ptr(), tuple(value.shape), value.stride()
        arrays.setdefault(place, _array(value))
        weights[name] = arrays[place], str(value.dtype).removeprefix("torch.")
    return PackedModel(
        loaded.name,
        model.config,
        loaded.tokenizer,
        model.mode.value,
        model.mlp_blocks,
        model.neuron_order,
        weights,
        text.name,
        text.block_size,
        {split: text.blocks(split).numpy() for split in splits},
        {split: of.numpy() for split in splits if (of := text.documents(split)) is not None},
    )


def _dtype(name: str) -> torch.dtype:
    dtype: Any = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


def _array(value: Tensor) -> np.ndarray:
    value = value.detach().cpu()
    return np.ascontiguousarray((value.view(torch.int16) if value.dtype is torch.bfloat16 else value).numpy())


def _tensor(array: np.ndarray, dtype: str) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # not writable: nothing writes there
        tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor


def _blocks(blocks: dict[Split, np.ndarray]) -> dict[Split, Tensor]:
    return {split: _tensor(array, "int64") for split, array in blocks.items()}
