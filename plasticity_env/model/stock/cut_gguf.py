"""A pruned Llama as a smaller GGUF file: heads and neurons that a masked file holds as zeros are cut out of it, layer by layer.

llama.cpp reads one number of heads for each layer under the architecture ``deci``, whose computation is Llama's. So a file of any
mask runs there; a ``llama`` file, and stock transformers, have one number for all layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from plasticity_env.common.errors import InputError, first_line
from plasticity_env.common.files import replace_file
from plasticity_env.common.values import user_path

_PLAIN = ("F32", "F16")
_OWN_KEYS = ("GGUF.", "general.architecture")  # the writer's own
_COUNTS = ("attention.head_count", "attention.head_count_kv", "feed_forward_length")


@dataclass(frozen=True)
class GgufCut:
    """What is left in each layer.

    Attributes:
        heads: Query heads. Where the groups of a layer keep different numbers of heads, either pruned ones fill them up, or each
            head gets keys and values of its own: whatever is smaller.
        kv_heads: Heads of keys and values.
        neurons: Number of MLP neurons.
    """

    heads: tuple[int, ...]
    kv_heads: tuple[int, ...]
    neurons: tuple[int, ...]


def cut_gguf(source: str | Path, target: str | Path) -> GgufCut:
    """Write a GGUF file of a masked model without its pruned heads and neurons; it computes the same.

    Args:
        source: What llama.cpp's converter makes of a ``masked`` export of a Llama, with ``--outtype f32`` or ``f16``.
        target: The file to write. Quantise it afterwards.

    Returns:
        What each layer keeps.

    Raises:
        InputError: If it is no GGUF file of a Llama, is quantised, has biases or experts, or nothing in it is zero.
        OSError: The target cannot be written.
    """
    source, target = user_path(source, "a GGUF file"), user_path(target, "a GGUF file")
    reader = _read(source)
    arrays: dict[str, np.ndarray] = {tensor.name: tensor.data for tensor in reader.tensors}
    try:
        layers, heads, kv_heads, neurons = (_number(reader, key) for key in ("block_count", *_COUNTS))
        width = arrays["blk.0.attn_q.weight"].shape[0] // heads
        counts = []
        for layer in range(layers):
            kept, groups = _cut_heads(arrays, f"blk.{layer}.attn_", heads, kv_heads, width)
            counts.append((kept, groups, _cut_neurons(arrays, f"blk.{layer}.ffn_")))
    except KeyError as error:
        raise InputError(f"{str(source)!r} has no {error}, which the converter writes for a Llama") from error
    cut = GgufCut(*zip(*counts, strict=True))
    if cut == GgufCut((heads,) * layers, (kv_heads,) * layers, (neurons,) * layers):
        raise InputError(
            f"no head and no neuron of {str(source)!r} is zero: prune the model and export it with --format masked"
        )
    replace_file(target, lambda temporary: _write(reader, arrays, cut, width, temporary))
    return cut


def _read(path: Path) -> Any:
    from gguf import GGUFReader  # here, so that other exports do not wait for it

    try:
        reader: Any = GGUFReader(path)
        kind = reader.fields["general.architecture"].contents()
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise InputError(f"{str(path)!r} cannot be read as a GGUF file: {first_line(error)}") from error
    if kind != "llama":
        raise InputError(
            f"{str(path)!r} holds a model of architecture {kind!r}: llama.cpp takes unequal layers of a 'llama' only"
        )
    for tensor in reader.tensors:
        if tensor.tensor_type.name not in _PLAIN:
            raise InputError(
                f"{tensor.name} of {str(path)!r} is stored as {tensor.tensor_type.name}: convert with --outtype f32 or f16, cut, "
                "and quantise afterwards"
            )
        if tensor.name.endswith(".bias") or "_exps" in tensor.name:
            raise InputError(
                f"{tensor.name} of {str(path)!r}: models with biases or experts are not cut; use the masked file"
            )
    return reader


def _number(reader: Any, key: str) -> int:
    return int(reader.fields[f"llama.{key}"].contents())


def _cut_heads(arrays: dict[str, np.ndarray], prefix: str, heads: int, kv_heads: int, width: int) -> tuple[int, int]:
    """Cut a layer's pruned heads out of its projections; returns the query heads and the KV heads that are left."""
    output = arrays[f"{prefix}output.weight"]  # (E, H * width)
    members = heads // kv_heads
    kept = [head for head in range(heads) if output[:, head * width : (head + 1) * width].any()]
    if not kept:
        for name in ("q", "k", "v", "output", "norm"):
            del arrays[f"{prefix}{name}.weight"]
        return 0, 0
    groups = [head // members for head in kept]  # keys and values once for each head, ...
    alike = sorted(set(groups))
    most = max(groups.count(group) for group in alike)
    if len(alike) * (most + 1) <= 2 * len(kept):  # ... or groups as large as the largest, filled with pruned heads
        kept, groups = [head for group in alike for head in _filled(group, members, kept, most)], alike
    for name, chosen in (("q", kept), ("k", groups), ("v", groups)):
        arrays[f"{prefix}{name}.weight"] = arrays[f"{prefix}{name}.weight"][_columns(chosen, width)]
    arrays[f"{prefix}output.weight"] = np.ascontiguousarray(output[:, _columns(kept, width)])
    return len(kept), len(groups)


def _filled(group: int, members: int, kept: list[int], size: int) -> list[int]:
    """So many heads of a group: those that are kept, and pruned ones, which write zeros."""
    return sorted(sorted(range(group * members, (group + 1) * members), key=lambda head: head not in kept)[:size])


def _cut_neurons(arrays: dict[str, np.ndarray], prefix: str) -> int:
    """Cut a layer's pruned neurons; one always stays, since llama.cpp leaves a layer without neurons out as a whole."""
    down = arrays[f"{prefix}down.weight"]  # (E, neurons)
    kept = np.flatnonzero(down.any(axis=0))
    kept = kept if len(kept) else np.zeros(1, dtype=np.intp)
    if len(kept) < down.shape[1]:
        arrays[f"{prefix}down.weight"] = np.ascontiguousarray(down[:, kept])
        for name in ("gate", "up"):
            arrays[f"{prefix}{name}.weight"] = arrays[f"{prefix}{name}.weight"][kept]
    return len(kept)


def _columns(chosen: list[int], width: int) -> np.ndarray:
    return (np.array(chosen)[:, None] * width + np.arange(width)).ravel()


def _write(reader: Any, arrays: dict[str, np.ndarray], cut: GgufCut, width: int, path: Path) -> None:
    from gguf import GGUFValueType, GGUFWriter

    writer: Any = GGUFWriter(path, "deci")
    for name, field in reader.fields.items():
        key = name.removeprefix("llama.")
        if name.startswith(_OWN_KEYS) or key in (
            "attention.head_count",
            "attention.head_count_kv",
            "feed_forward_length",
        ):
            continue
        kind = field.types[0]
        inside = field.types[-1] if kind == GGUFValueType.ARRAY else None
        writer.add_key_value(name if key == name else f"deci.{key}", field.contents(), kind, sub_type=inside)
    writer.add_head_count(cut.heads)
    writer.add_head_count_kv(cut.kv_heads)
    writer.add_feed_forward_length(cut.neurons)
    if "llama.attention.key_length" not in reader.fields:  # no longer the model's width over its heads
        writer.add_key_length(width)
        writer.add_value_length(width)
    for name, array in arrays.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
