"""A pruned model as files that others can load: stock architectures, without this package.

``masked`` keeps the stock shapes: rows of pruned units are zero, warm-up scales are folded in, repaired weights stay.
``uniform`` removes the pruned units where every layer keeps as many, and writes a stock configuration of that size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from plasticity_env.common.errors import InputError, unknown
from plasticity_env.common.values import user_path
from plasticity_env.model.guards import raw_state
from plasticity_env.model.layouts import AttentionBlock, HeadSlice, MlpBlock, attention_blocks, cut_mlps
from plasticity_env.model.loading_remarks import without_bars
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.model.stock.stock_configs import Sizes, find_skeleton
from plasticity_env.model.stock.uniform import block_count, group_shape

FORMATS = ("masked", "compact", "uniform")
# largest ||exported - own logits|| / ||own logits|| on a short text, by the type of the weights in the file
TOLERANCES = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


@dataclass(frozen=True)
class Export:
    """A model ready to be written, and what there is to say about it.

    Attributes:
        model: The Hugging Face model.
        parameters, dense_parameters: How many it and the dense model have.
        notes: Sentences about what the format costs.
    """

    model: nn.Module
    parameters: int
    dense_parameters: int
    notes: tuple[str, ...]


def check_format(name: str) -> str:
    """Return the name of an export format.

    Raises:
        InputError: No such format.
    """
    if name not in FORMATS:
        raise unknown("format", name, FORMATS)
    return name


def dense_sizes(model: PlasticModel) -> Sizes:
    """Sizes of the model with nothing removed."""
    return Sizes(model.heads, model.kv_heads, model.blocks[0].head_dim, model.mlps[0].width if model.mlps else None)


def prepare_export(model: PlasticModel, form: str, dtype: torch.dtype | None = None) -> Export:
    """Build what a format writes; the model itself is left as it is.

    Args:
        model: Carrying its mask, its warm-up and its repair.
        form: One of `FORMATS`.
        dtype: Type of the exported weights; the model's own when None.

    Returns:
        The model to write, on the CPU.

    Raises:
        InputError: Unknown format, or the model cannot be said in it.
    """
    build: dict[str, Callable[[PlasticModel], tuple[nn.Module, list[str]]]] = {
        "masked": masked_model,
        "uniform": uniform_model,
        "compact": compact_model,
    }
    model.refuse_if_retired()
    exported, notes = build[check_format(form)](model)
    exported = exported.to(dtype or model.dtype).eval()
    exported.generation_config = copy.deepcopy(model.model.generation_config)  # type: ignore[assignment]
    growing = int(((model.scale != 1) & model.active).sum())
    if growing:
        notes.append(f"{growing} heads are still warming up: they are written as strong as they are now")
    dense = sum(p.numel() for p in model.model.parameters())
    return Export(exported, sum(p.numel() for p in exported.parameters()), dense, tuple(notes))


def write_export(export: Export, folder: str | Path, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
    """Write weights (safetensors), configuration and tokenizer into a folder; ``~`` is the home folder."""
    folder = user_path(folder, "the folder of a model")
    with without_bars():
        export.model.save_pretrained(folder)  # type: ignore[operator]
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


@torch.no_grad()
def check_export(folder: str | Path, model: PlasticModel, tokens: int = 24) -> float:
    """Load a written folder the stock way and compare its logits with the model's on random tokens.

    Args:
        folder: Folder that `write_export` left.
        model: What was exported.
        tokens: Length of the text.

    Returns:
        ||exported - own|| / ||own|| of the logits.

    Raises:
        InputError: They differ: the architecture is not what its stock configuration says.
    """
    folder = user_path(folder, "the folder of a model")
    ids = torch.randint(0, model.config.vocab_size, (1, tokens), generator=torch.Generator().manual_seed(0))
    with without_bars():
        loaded = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False).eval()
    own = model(input_ids=ids.to(model.device), use_cache=False).logits.double().cpu()
    difference = float((loaded(input_ids=ids, use_cache=False).logits.double() - own).norm() / own.norm())
    tolerance = max(TOLERANCES.get(dtype, 1e-1) for dtype in (loaded.dtype, model.dtype))
    if not difference <= tolerance:
        raise InputError(
            f"the exported model's logits differ from the model's by {difference:.2g} of their size: this architecture "
            "cannot be exported this way; use another --format"
        )
    return difference


def masked_model(model: PlasticModel) -> tuple[nn.Module, list[str]]:
    """A stock model of the dense sizes that computes what the pruned one computes, and notes about its cost.

    Raises:
        InputError: A repair added biases that no stock configuration of this architecture has.
    """
    everything = torch.ones_like(model.active)
    exported, notes = _stock_model(model, dense_sizes(model), everything)
    pruned = int((~model.active).sum())
    if pruned:
        notes.insert(0, f"{pruned} pruned units are written as zeros: nothing gets smaller or faster")
    return exported, notes


def uniform_model(model: PlasticModel) -> tuple[nn.Module, list[str]]:
    """A stock model of smaller sizes that computes what the pruned one computes, and notes about its cost.

    Raises:
        InputError: Layers differ in what they keep, or no stock configuration says these sizes.
    """
    heads = model.active[:, : model.heads]
    groups, members = group_shape(heads, model.kv_heads)
    dense = dense_sizes(model)
    neurons = dense.neurons
    if model.mlp_blocks:
        neurons = block_count(model.active[:, model.heads :]) * model.mlps[0].unit_width
    return _stock_model(model, Sizes(groups * members, groups, dense.head_dim, neurons), model.active)


def compact_model(model: PlasticModel) -> tuple[nn.Module, list[str]]:
    """The physically smaller model of any mask; loading it needs ``import plasticity_env``."""
    return model.compact(), ["loads after `import plasticity_env` only"]  # type: ignore[attr-defined, operator]


def _stock_model(model: PlasticModel, wanted: Sizes, kept: Tensor) -> tuple[nn.Module, list[str]]:
    """Copy the kept units, gates folded in, into a stock model of the wanted sizes ((L, U) boolean ``kept``)."""
    own = {name: value.detach().cpu() for name, value in raw_state(model.model).items()}
    skeleton = find_skeleton(model.config, dense_sizes(model), wanted, set(own))
    tensors = {
        name: own[name].clone() if name in own and own[name].shape == value.shape else _zeros(value, model.dtype)
        for name, value in skeleton.state_dict().items()
    }
    copier = _Copier(model, skeleton, tensors)
    blocks = attention_blocks(skeleton)
    mlps = cut_mlps(skeleton, wanted.heads, wanted.neurons // model.mlps[0].unit_width) if wanted.neurons else []
    gates = model.gates * kept
    for layer, block in enumerate(blocks):
        copier.attention(model.blocks[layer], block, kept[layer], gates[layer])
    for layer, mlp in enumerate(mlps):
        copier.mlp(model.mlps[layer], mlp, kept[layer], gates[layer])
    skeleton.load_state_dict(tensors, assign=True)
    skeleton.tie_weights()  # type: ignore[operator]
    return skeleton, _notes(model, skeleton, set(own), blocks[0])


class _Copier:
    """Copies pieces of one model's parameters to where they lie in another's, which may be wider (zeros around)."""

    def __init__(self, model: PlasticModel, skeleton: nn.Module, tensors: dict[str, Tensor]) -> None:
        self._tensors = tensors
        self._names = {id(p): name for m in (model.model, skeleton) for name, p in m.named_parameters()}

    def attention(self, source: AttentionBlock, target: AttentionBlock, kept: Tensor, gates: Tensor) -> None:
        """Kept heads in order, and the KV groups that they read."""
        self._clear([*target.projections()], [target.output_slice(0).parameter])
        heads = kept[: source.heads].nonzero().flatten().tolist()
        # scores are multiplied by the module's own factor, which follows the width of its heads
        stretch = _score_factor(source) / _score_factor(target)
        groups = list(dict.fromkeys(head // source.group_size for head in heads))
        for index, group in enumerate(groups):
            self._copy(source.kv_slices(group), target.kv_slices(index))
            self._copy_own(source.own_parts(group, "group"), target.own_parts(index, "group"))
        for index, head in enumerate(heads):
            self._copy(source.query_slices(head), target.query_slices(index), stretch)
            self._copy([source.output_slice(head)], [target.output_slice(index)], float(gates[head]))
            self._copy_own(source.own_parts(head, "head"), target.own_parts(index, "head"))

    def mlp(self, source: MlpBlock, target: MlpBlock, kept: Tensor, gates: Tensor) -> None:
        """Kept blocks of neurons in order; an MLP that is no unit was copied whole."""
        if source.count:
            self._clear(target.inputs, [target.output_slice(0).parameter])
        for index, block in enumerate(kept[source.columns].nonzero().flatten().tolist()):
            self._copy(source.input_slices(block), target.input_slices(index))
            factor = float(gates[source.columns][block])
            self._copy([source.output_slice(block)], [target.output_slice(index)], factor)

    def _clear(self, modules: list[nn.Module], parameters: list[Tensor]) -> None:
        for parameter in [*(p for module in modules for p in module.parameters()), *parameters]:
            self._tensors[self._names[id(parameter)]].zero_()

    def _copy_own(self, source: list[HeadSlice], target: list[HeadSlice]) -> None:
        """Sinks and norms of a head, from where they lie to where they go."""
        for piece, place in zip(source, target, strict=True):
            place.narrow(self._tensors[self._names[id(place.parameter)]]).copy_(piece.data.cpu())

    def _copy(self, source: list[HeadSlice], target: list[HeadSlice], factor: float = 1.0) -> None:
        names = [self._names[id(piece.parameter)] for piece in source]
        places = [piece for piece in target if self._names[id(piece.parameter)] in names]  # new biases stay zero
        for name, piece, place in zip(names, source, places, strict=True):
            values = piece.data.cpu()
            room = place.narrow(self._tensors[name]).narrow(piece.dim, 0, piece.length)
            room.copy_(values if factor == 1.0 else values * factor)


def _score_factor(block: AttentionBlock) -> float:
    return float(getattr(block.module, "scaling", None) or block.head_dim**-0.5)


def _zeros(like: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(like.shape, dtype=dtype)


def _notes(model: PlasticModel, skeleton: nn.Module, own: set[str], block: AttentionBlock) -> list[str]:
    notes = []
    if skeleton.config.model_type != model.config.model_type:  # type: ignore[union-attr]
        notes.append(f"written as a {type(skeleton.config).__name__}, which computes the same")
    added = {name: p for name, p in skeleton.named_parameters() if name not in own}
    carried = [repair for repair in model.repairs.values() if repair.bias is not None and repair.base_bias is None]
    if carried:
        zeros = sum(p.numel() for p in added.values())
        written = zeros + sum(repair.bias.numel() for repair in carried if repair.bias is not None)
        notes.append(
            f"the repair's biases need a configuration with biases: {written} numbers more, {zeros} of them zero"
        )
    if block.head_dim != model.blocks[0].head_dim:
        notes.append(
            f"{type(skeleton.config).__name__} ties the width of a head to hidden_size / heads: {block.heads} heads of "
            f"{block.head_dim} instead of {model.blocks[0].head_dim}, padded with zeros; attention gets no smaller or faster"
        )
    return notes
