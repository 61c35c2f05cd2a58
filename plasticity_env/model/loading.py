"""Models by name: embedded, a Hugging Face folder, a GGUF file, or a name on the hub."""

from __future__ import annotations

import difflib
import os
import threading
from contextlib import nullcontext
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from plasticity_env.common.errors import InputError, check_least, first_line
from plasticity_env.common.hub import hub_or_cache
from plasticity_env.common.values import user_path
from plasticity_env.model.contexts import in_plain_mode
from plasticity_env.model.embedded import MODELS_FOLDER, embedded_models
from plasticity_env.model.loading_remarks import remarks_held_back, without_bars
from plasticity_env.model.modes import PruningMode
from plasticity_env.model.plastic_model import PlasticModel

DEFAULT_MODEL = "bard-gpt2-4x4"  # of the embedded ones
LOADING = threading.Lock()  # transformers patches torch for the whole process while it builds a model


class LoadedModel(NamedTuple):
    """A model ready for surgery, and the tokenizer that goes with it."""

    model: PlasticModel
    tokenizer: PreTrainedTokenizerBase
    name: str


@in_plain_mode
def load_model(
    name_or_path: str | PathLike[str],
    *,
    mode: str | PruningMode = PruningMode.ADAPTIVE,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    mlp_blocks: int = 0,
) -> LoadedModel:
    """Load a causal LM and wrap it.

    Args:
        name_or_path: An embedded name (`embedded_models()`), a Hugging Face folder, a ``.gguf`` file, or a hub name.
        mode: Pruning mode of the wrapped model.
        device: Device that its parameters go to.
        dtype: Type of its parameters.
        mlp_blocks: Blocks of MLP neurons a layer that are units beside the heads; 0 for heads alone.

    Returns:
        Model in evaluation mode, tokenizer, and a short name.

    Raises:
        InputError: Nothing there, no network, an unknown architecture, or a device that this machine lacks.
    """
    device = check_device(device)
    named = isinstance(name_or_path, PathLike)
    path = user_path(name_or_path, "a model")
    name_or_path = os.fspath(name_or_path)
    _check_options(mode, dtype, mlp_blocks)
    source, name = name_or_path, name_or_path
    extra: dict[str, Any] = {}
    if name_or_path in embedded_models():
        source = str(MODELS_FOLDER / name_or_path)
    elif path.suffix == ".gguf":
        if not path.is_file():
            raise InputError(f"no GGUF file at {name_or_path!r}")
        source, extra, name = str(path.parent), {"gguf_file": path.name}, path.stem
        if hasattr(transformers, "GgufConfig"):  # later versions keep weights packed where they have a kernel for it
            extra["quantization_config"] = transformers.GgufConfig(dequantize=True)
    elif path.is_dir():
        source, name = str(path), path.resolve().name
        if not (path / "config.json").exists():
            raise InputError(f"{name_or_path!r} is not a Hugging Face folder (no config.json); name a GGUF file itself")
        if (path / "plastic.json").exists():
            raise InputError(
                f"{name_or_path!r} is a checkpoint of a pruned model: read it with plasticity_env.load_plastic, or make a "
                "stock model of it with scripts/export_model.py"
            )
    elif named or path.exists() or path.is_absolute() or name_or_path.startswith(".") or name_or_path.count("/") > 1:
        there = (
            "is a file, and neither a folder nor a .gguf file"
            if path.exists()
            else "is not a folder or file that exists"
        )
        raise InputError(
            f"no model at {name_or_path!r}: it {there}; the embedded models are {', '.join(embedded_models())}"
        )
    try:
        with without_bars(), nullcontext() if Path(source).exists() else hub_or_cache(), LOADING, remarks_held_back():
            tokenizer = read_tokenizer(source, gguf_file=extra.get("gguf_file"))
            hf_model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, trust_remote_code=False, **extra)
            if extra:
                _forget_quantization(hf_model)
    except Exception as error:  # a strange file makes the library fail in many unrelated ways
        set_aside = [other for other in embedded_models() if other != DEFAULT_MODEL]
        raise InputError(
            f"cannot load model {name_or_path!r}{_guess(name_or_path)} ({first_line(error)}); without a network use the "
            f"embedded {DEFAULT_MODEL} (others: {', '.join(set_aside)}), a folder or a GGUF file"
        ) from error
    check_tokenizer(tokenizer, hf_model, name_or_path)
    hf_model.to(device)  # type: ignore[arg-type]
    return LoadedModel(PlasticModel(hf_model.eval(), mode, mlp_blocks), tokenizer, name)


def _check_options(mode: object, dtype: object, mlp_blocks: object) -> None:
    PruningMode.parse(mode)  # type: ignore[arg-type]
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise InputError(f"dtype must be one of torch's floating types, such as torch.float32, got {dtype!r}")
    check_least("mlp_blocks", mlp_blocks, 0)


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, model: nn.Module, name: str) -> None:
    """Refuse a tokenizer that is empty, or makes ids that a Hugging Face model has no embedding row for.

    Raises:
        InputError: The tokenizer does not fit.
    """
    rows = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    if not tokenizer.vocab_size:
        raise InputError(
            f"{name!r} holds no tokenizer (no tokenizer.json or vocabulary): save the model's own beside it"
        )
    if len(tokenizer) > rows:
        raise InputError(
            f"the tokenizer of {name!r} has {len(tokenizer)} tokens, the model's embedding {rows} rows: call "
            "model.resize_token_embeddings(len(tokenizer)) and save both again"
        )


def read_tokenizer(source: str | Path, **options: Any) -> PreTrainedTokenizerBase:
    """A tokenizer from a folder or the hub; code that lies beside it is never run."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **options)
    return tokenizer


def _guess(name: str) -> str:
    """A suggestion, where a name is close to that of an embedded model."""
    close = difflib.get_close_matches(name, embedded_models(), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _forget_quantization(model: Any) -> None:
    """Weights of a GGUF file are unpacked on the way in: what is saved later must not say that they are quantised."""
    for owner, names in (
        (model, ("hf_quantizer", "is_quantized", "quantization_method")),
        (model.config, ("quantization_config", "_is_quantized", "_model_name_or_path")),
    ):
        for name in names:
            vars(owner).pop(name, None)


def check_device(device: str | torch.device) -> torch.device:
    """Turn a name into a device; ``auto`` is CUDA where there is one, else the CPU.

    Raises:
        InputError: If it is no device, or is not on this machine.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        parsed = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"unknown device {str(device)!r}: use 'auto', 'cpu', 'cuda' or 'cuda:0'") from error
    if parsed.type not in ("cpu", "cuda"):
        raise InputError(f"device {str(device)!r} is not supported: use 'auto', 'cpu', 'cuda' or 'cuda:0'")
    if parsed.type == "cuda" and (parsed.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device {str(device)!r} is not available on this machine: use 'cpu'")
    return parsed


def check_positions(loaded: LoadedModel, length: int) -> None:
    """Refuse blocks that are longer than what a model has positions for.

    Raises:
        InputError: The blocks are too long.
    """
    limit = getattr(loaded.model.config, "max_position_embeddings", None)
    if limit is not None and length > int(limit):
        raise InputError(f"max_length {length} is more than the {limit} positions of {loaded.name!r}")
