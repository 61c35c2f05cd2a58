"""A GGUF file whose zeros are cut out computes what the whole file computes, by a plain forward pass that reads GGUF files."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter

from plasticity_env import InputError
from plasticity_env.model.stock.cut_gguf import GgufCut, cut_gguf

LAYERS, HEADS, GROUPS, WIDTH, EMBED, NEURONS = 3, 9, 3, 4, 16, 6
PRUNED = {0: range(1, 9), 1: range(9), 2: (2, 3, 8)}  # one head is left; none; two of each group


def masked_arrays(pruned=PRUNED, neurons=((0, 3), tuple(range(NEURONS)), ())):
    """Random weights of a small Llama; pruned heads and neurons are zeros where they write."""
    random = np.random.default_rng(0)
    shapes = {"attn_q": (HEADS * WIDTH, EMBED), "attn_k": (GROUPS * WIDTH, EMBED), "attn_v": (GROUPS * WIDTH, EMBED)}
    shapes |= {"attn_output": (EMBED, HEADS * WIDTH), "attn_norm": (EMBED,), "ffn_norm": (EMBED,)}
    shapes |= {"ffn_gate": (NEURONS, EMBED), "ffn_up": (NEURONS, EMBED), "ffn_down": (EMBED, NEURONS)}
    arrays = {"token_embd.weight": random.normal(size=(10, EMBED)), "output_norm.weight": random.normal(size=EMBED)}
    for layer in range(LAYERS):
        arrays |= {f"blk.{layer}.{name}.weight": random.normal(size=shape) for name, shape in shapes.items()}
        for head in pruned.get(layer, ()):
            arrays[f"blk.{layer}.attn_output.weight"][:, head * WIDTH : (head + 1) * WIDTH] = 0
        arrays[f"blk.{layer}.ffn_down.weight"][:, list(neurons[layer])] = 0
    return arrays


def write(path, arrays, architecture="llama", dtype=np.float32):
    writer = GGUFWriter(path, architecture)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(GROUPS)
    writer.add_feed_forward_length(NEURONS)
    writer.add_context_length(64)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_token_list(["a", "b", "\u0120c"])
    writer.add_token_types([1, 1, 1])
    writer.add_add_bos_token(False)
    for name, array in arrays.items():
        writer.add_tensor(name, array.astype(dtype))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def forward(path):
    """The last hidden states of ten tokens, without positions (which act on each head in the same way)."""
    reader = GGUFReader(path)
    arrays = {tensor.name: np.array(tensor.data, dtype=np.float64) for tensor in reader.tensors}
    prefix = reader.fields["general.architecture"].contents()

    def per_layer(key):
        value = reader.fields[f"{prefix}.{key}"].contents()
        return value if isinstance(value, list) else [value] * LAYERS

    def norm(x, name):
        return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-6) * arrays[name]

    hidden = arrays["token_embd.weight"]
    for layer, (heads, groups) in enumerate(
        zip(per_layer("attention.head_count"), per_layer("attention.head_count_kv"), strict=True)
    ):
        blk = f"blk.{layer}."
        if heads:
            x = norm(hidden, f"{blk}attn_norm.weight")
            q, k, v = (x @ arrays[f"{blk}attn_{name}.weight"].T for name in "qkv")
            outs = []
            for head in range(heads):
                at, kv = slice(head * WIDTH, (head + 1) * WIDTH), head // (heads // groups)
                scores = q[:, at] @ k[:, kv * WIDTH : (kv + 1) * WIDTH].T
                scores = np.where(np.tri(len(x), dtype=bool), scores / 2, -np.inf)
                shares = np.exp(scores - scores.max(-1, keepdims=True))
                outs.append(shares / shares.sum(-1, keepdims=True) @ v[:, kv * WIDTH : (kv + 1) * WIDTH])
            hidden = hidden + np.concatenate(outs, axis=1) @ arrays[f"{blk}attn_output.weight"].T
        x = norm(hidden, f"{blk}ffn_norm.weight")
        gate, up = (x @ arrays[f"{blk}ffn_{name}.weight"].T for name in ("gate", "up"))
        assert gate.shape[1] == per_layer("feed_forward_length")[layer]
        hidden = hidden + (gate / (1 + np.exp(-gate)) * up) @ arrays[f"{blk}ffn_down.weight"].T
    return norm(hidden, "output_norm.weight")


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_cut_file_computes_the_same_and_is_smaller(tmp_path, dtype):
    whole = write(tmp_path / "masked.gguf", masked_arrays(), dtype=dtype)
    cut = cut_gguf(whole, tmp_path / "cut.gguf")
    assert cut == GgufCut(heads=(1, 0, 6), kv_heads=(1, 0, 3), neurons=(4, 1, 6))
    np.testing.assert_allclose(forward(tmp_path / "cut.gguf"), forward(whole), rtol=1e-9, atol=1e-9)
    before, after = GGUFReader(whole), GGUFReader(tmp_path / "cut.gguf")
    assert sum(t.n_elements for t in after.tensors) < sum(t.n_elements for t in before.tensors)
    assert {t.tensor_type for t in after.tensors} == {t.tensor_type for t in before.tensors}
    for name, field in before.fields.items():  # the tokenizer and all other keys come along
        if name.startswith("tokenizer."):
            assert after.fields[name].contents() == field.contents()
            assert after.fields[name].types == field.types
    assert after.fields["general.architecture"].contents() == "deci"
    assert after.fields["deci.attention.key_length"].contents() == WIDTH
    assert after.fields["deci.context_length"].contents() == 64
    assert "deci.attention.layer_norm_rms_epsilon" in after.fields


def test_groups_of_unequal_size_are_filled_up_or_get_keys_and_values_of_their_own(tmp_path):
    whole = write(tmp_path / "masked.gguf", masked_arrays({0: (0,), 1: (3, 5, 7, 8), 2: (1, 3, 4, 5)}))
    cut = cut_gguf(whole, tmp_path / "cut.gguf")
    assert (cut.heads, cut.kv_heads) == ((9, 5, 6), (3, 5, 2))  # of 2 + 3 + 3, of 3 + 1 + 1, of 2 + 0 + 3
    np.testing.assert_allclose(forward(tmp_path / "cut.gguf"), forward(whole), rtol=1e-9, atol=1e-9)


def quantised(path):
    writer = GGUFWriter(path, "llama")
    writer.add_tensor("blk.0.attn_q.weight", np.zeros((32, 34), dtype=np.uint8), raw_dtype=GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.write_text("no model"), "cannot be read as a GGUF file"),
        (lambda path: None, "cannot be read as a GGUF file"),
        (lambda path: write(path, masked_arrays(), architecture="gpt2"), "architecture 'gpt2'"),
        (lambda path: write(path, masked_arrays({}, ((), (), ()))), "no head and no neuron"),
        (lambda path: write(path, masked_arrays() | {"blk.0.attn_q.bias": np.ones(16)}), "with biases or experts"),
        (lambda path: write(path, {"blk.0.attn_q.weight": np.ones((16, 16))}), "has no 'blk.0.attn_output.weight'"),
        (quantised, "stored as Q8_0: convert with --outtype f32 or f16"),
    ],
)
def test_what_cannot_be_cut_is_refused_and_nothing_is_written(tmp_path, make, said):
    make(tmp_path / "it.gguf")
    with pytest.raises(InputError, match=said):
        cut_gguf(tmp_path / "it.gguf", tmp_path / "cut.gguf")
    assert not (tmp_path / "cut.gguf").exists()
