"""Models by every kind of name."""

from __future__ import annotations

import threading
import time

import pytest
import torch
import transformers

from plasticity_env import InputError, embedded_models, load_model, load_plastic, save_plastic
from tests.conftest import build


def test_every_embedded_model_loads_and_reads_text():
    for name in embedded_models():
        model, tokenizer, _ = load_model(name)
        ids = torch.tensor([tokenizer("To be, or not to be, that is the")["input_ids"]])
        with torch.no_grad():
            assert torch.isfinite(model(ids).logits).all()


def test_a_folder_in_the_hubs_format_loads(tmp_path):
    stock, tokenizer = build("qwen3"), load_model("bard-gpt2-4x4").tokenizer
    stock.resize_token_embeddings(len(tokenizer))
    stock.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = load_model(str(tmp_path)).model
    ids = torch.arange(10).view(1, 10)
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, stock(ids).logits)


def test_a_gguf_file_loads(tmp_path):
    """A file written with the gguf library, tiny random weights: the path that real GGUF files take."""
    path = tmp_path / "tiny.gguf"
    weights = write_gguf(path)
    model = load_model(str(path)).model
    assert model.shape == (1, 2)
    assert torch.equal(model.model.model.layers[0].mlp.gate_proj.weight, weights["blk.0.ffn_gate.weight"])
    model.half()  # nothing about it is quantised any more, nor is what it saves
    model.model.save_pretrained(tmp_path / "saved")
    path.unlink()
    assert "quantization" not in (tmp_path / "saved" / "config.json").read_text()
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(again.lm_head.weight, model.model.lm_head.weight)


def write_gguf(path):
    import gguf
    import numpy as np

    width, hidden, vocabulary = 32, 64, 40
    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(16)
    writer.add_vocab_size(vocabulary)
    tokens = ["<unk>", "<s>", "</s>", *[f"▁w{i}" for i in range(vocabulary - 3)]]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * vocabulary)
    writer.add_token_types([2, 3, 3] + [1] * (vocabulary - 3))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    shapes = {
        "token_embd.weight": (vocabulary, width),
        "output.weight": (vocabulary, width),
        "output_norm.weight": (width,),
        "blk.0.attn_norm.weight": (width,),
        "blk.0.ffn_norm.weight": (width,),
        "blk.0.attn_q.weight": (32, width),
        "blk.0.attn_k.weight": (16, width),
        "blk.0.attn_v.weight": (16, width),
        "blk.0.attn_output.weight": (width, 32),
        "blk.0.ffn_gate.weight": (hidden, width),
        "blk.0.ffn_up.weight": (hidden, width),
        "blk.0.ffn_down.weight": (width, hidden),
    }
    weights = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    for name, value in weights.items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {name: torch.from_numpy(value) for name, value in weights.items()}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no-such-user/no-such-model", "without a network use the embedded bard-gpt2-4x4 \\(others"),
        ("/no/such/folder", "no model at"),
        ("./missing.gguf", "no GGUF file"),
    ],
)
def test_a_model_that_is_not_there_is_one_clear_sentence(name, message):
    with pytest.raises(InputError, match=message):
        load_model(name)


def test_a_folder_without_a_config_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no config\.json"):
        load_model(str(tmp_path))


@pytest.mark.parametrize("device", ["tpu9", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(InputError, match="device"):
        load_model("bard-gpt2-4x4", device=device)


def test_threads_take_turns_where_transformers_patches_torch(tmp_path, monkeypatch):
    """Of a folder, a checkpoint's folder, a checkpoint's file: two at once would leave parameters without values."""
    saved = load_model("bard-gpt2-4x4")
    save_plastic(saved.model, tmp_path / "folder", saved.tokenizer)
    save_plastic(saved.model, tmp_path / "file.pth", saved.tokenizer)
    inside, most, failed = [], [], []

    def alone(build):
        def go(*args, **kwargs):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            made = build(*args, **kwargs)
            inside.pop()
            return made

        return go

    for name in ("from_pretrained", "from_config"):
        monkeypatch.setattr(
            transformers.AutoModelForCausalLM, name, alone(getattr(transformers.AutoModelForCausalLM, name))
        )

    def load(read, source):
        try:
            assert not any(parameter.is_meta for parameter in read(source).model.parameters())
        except BaseException as error:
            failed.append(error)

    ways = [(load_model, "bard-gpt2-4x4"), (load_plastic, tmp_path / "folder"), (load_plastic, tmp_path / "file.pth")]
    threads = [threading.Thread(target=load, args=way) for way in ways]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert most == [1, 1, 1]
