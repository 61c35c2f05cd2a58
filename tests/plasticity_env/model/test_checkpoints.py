"""A saved model comes back in the very state in which it was saved, and damage is told from another's file."""

from __future__ import annotations

import json

import pytest
import torch
import transformers as tf

from plasticity_env import InputError, PlasticModel
from plasticity_env.model.checkpoints import is_checkpoint, load_checkpoint, load_plastic, save_plastic
from plasticity_env.model.loading import load_model
from tests.conftest import EVERY, HEADS_ONLY, build

IDS = torch.randint(3, 128, (2, 10), generator=torch.Generator().manual_seed(1))


def mask_of(model, *units):
    mask = torch.zeros(model.shape, dtype=torch.bool)
    for layer, unit in units:
        mask[layer, unit] = True
    return mask


def lived(architecture="llama", mlp_blocks=2, bias=False):
    """A model with a pruned group, a pruned MLP block, a growing head, a current repair and one that training passed."""
    mlp_blocks = 0 if architecture in HEADS_ONLY else mlp_blocks
    model = PlasticModel(build(architecture), mlp_blocks=mlp_blocks)
    units = [(0, 0), (0, 1), (1, 2), (1, 1)] + ([(0, 4)] if mlp_blocks else [])
    model.prune(mask_of(model, *units))
    generator = torch.Generator().manual_seed(2)
    model.grow(mask_of(model, (1, 1)), initial_scale=0.1, warmup_steps=7, generator=generator)
    model.advance_warmup(3)

    def change(index):
        weight = model.sites[index].output_weight()
        noise = torch.randn(weight.shape, generator=generator)
        model.apply_repair(index, weight + 0.1 * noise, 0.2 * noise[0] if bias else None)

    change(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    model.weights_changed()
    change(len(model.sites) - 1)
    return model


def same(one, two):
    """Whether two models hold the same state; returns what differs."""
    a, b = one.snapshot(), two.snapshot()
    differ = [name for name in ("active", "scale", "warmup") if not torch.equal(getattr(a, name), getattr(b, name))]
    differ += [name for name in a.weights if name not in b.weights or not torch.equal(a.weights[name], b.weights[name])]
    differ += [name for name in b.weights if name not in a.weights]
    differ += [str(k) for k in a.saved.keys() ^ b.saved.keys()] + [str(k) for k in a.repairs.keys() ^ b.repairs.keys()]
    for key in a.saved.keys() & b.saved.keys():
        if not all(torch.equal(x, y) for x, y in zip(a.saved[key], b.saved[key], strict=True)):
            differ.append(str(key))
    for site in a.repairs.keys() & b.repairs.keys():
        x, y = a.repairs[site], b.repairs[site]
        for part in ("base", "weight", "bias", "base_bias"):
            p, q = getattr(x, part), getattr(y, part)
            if (p is None) != (q is None) or (p is not None and not torch.equal(p, q)):
                differ.append(f"repair {site} {part}")
        if (x.version == one.weight_version) != (y.version == two.weight_version):
            differ.append(f"repair {site} version")
    return differ


@pytest.mark.parametrize("where", ["folder", "file.pth", "file.pt"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "architecture",
    [
        *("gpt2", "llama", "gpt_neox", "gemma3"),
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("cohere", "falcon", "gpt_oss", "olmo2", "stablelm_norms")
        ),
    ],
)
def test_the_state_comes_back_bit_for_bit(tmp_path, architecture, bias, where):
    """Slow for architectures that differ in few ways: six cases each."""
    model = lived(architecture, bias=bias)
    save_plastic(model, tmp_path / where, name="it")
    loaded = load_plastic(tmp_path / where, name="it")
    again = loaded.model
    assert loaded.name == "it"
    assert again.mode == model.mode
    assert again.mlp_blocks == model.mlp_blocks
    assert same(model, again) == []
    with torch.no_grad():
        torch.testing.assert_close(again(IDS).logits, model(IDS).logits)
    # and it goes on as the first one does
    for one in (model, again):
        one.advance_warmup(2)
        one.undo_repair([len(one.sites) - 1])
        one.revive(mask_of(one, (0, 0), (1, 2)))
        one.undo_repair()
    assert same(model, again) == []
    with torch.no_grad():
        torch.testing.assert_close(again(IDS).logits, model(IDS).logits)


@pytest.mark.parametrize("architecture", EVERY)
def test_stock_transformers_loads_the_folder_as_the_pruned_model(tmp_path, architecture):
    model = lived(architecture)
    save_plastic(model, tmp_path / "it")
    stock = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "it").eval()
    with torch.no_grad():
        assert torch.allclose(stock(IDS).logits, model(IDS).logits, atol=1e-4, rtol=1e-4)


def test_a_file_is_plain_and_safe_to_load(tmp_path):
    save_plastic(lived(), tmp_path / "it.pth")
    whole = torch.load(tmp_path / "it.pth", weights_only=True)
    stock = {name: value.shape for name, value in build("llama").state_dict().items()}
    assert {name: value.shape for name, value in whole["weights"].items()} == stock
    assert torch.tensor(whole["plastic"]["active"]).shape == (2, 6)


@pytest.mark.parametrize("where", ["folder", "file.pth"])
def test_the_tokenizer_the_mode_and_half_precision_come_along(tmp_path, where):
    embedded = load_model("bard-gpt2-4x4", mode="compressed", dtype=torch.float16)
    embedded.model.prune(mask_of(embedded.model, (2, 3)))
    save_plastic(embedded.model, tmp_path / where, embedded.tokenizer, embedded.name)
    loaded = load_plastic(tmp_path / where)
    assert loaded.name == "bard-gpt2-4x4"
    assert loaded.model.dtype == torch.float16
    assert loaded.tokenizer("To be, or not")["input_ids"] == embedded.tokenizer("To be, or not")["input_ids"]
    assert loaded.model.model.generation_config.eos_token_id == embedded.model.model.generation_config.eos_token_id
    with pytest.raises(InputError, match="compressed mode"):
        loaded.model.revive(mask_of(loaded.model, (2, 3)))


@pytest.mark.parametrize("where", ["folder", "file.pth"])
def test_saving_again_replaces_and_leaves_nothing_else(tmp_path, where):
    model = lived()
    save_plastic(model, tmp_path / where)
    model.undo_repair()
    save_plastic(model, tmp_path / where)
    assert same(model, load_plastic(tmp_path / where).model) == []
    assert [entry.name for entry in tmp_path.iterdir()] == [where]


def test_what_is_no_checkpoint_is_not_replaced(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "notes.txt").write_text("keep")
    with pytest.raises(InputError, match="exists already"):
        save_plastic(lived(), folder)
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        save_plastic(lived(), tmp_path / "folder.pth")
    assert [entry.name for entry in folder.iterdir()] == ["notes.txt"]
    assert not is_checkpoint(folder)


def test_checkpoints_that_cannot_be_used(tmp_path):
    model = lived()
    save_plastic(model, tmp_path / "it", name="it")
    save_plastic(model, tmp_path / "it.pth", name="it")
    for path in (tmp_path / "it", tmp_path / "it.pth"):
        with pytest.raises(InputError, match="checkpoint of 'it', not of 'other'"):
            load_plastic(path, name="other")
    with pytest.raises(InputError, match="no checkpoint of a pruned model"):
        load_plastic(tmp_path / "nothing")
    with pytest.raises(InputError, match="load_plastic"):  # not taken for a stock model
        load_model(str(tmp_path / "it"))


def damage_json(folder, **changes):
    path = folder / "plastic.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("file", "harm"),
    [
        ("plastic.json", lambda path: path.write_text("{")),
        ("plastic.json", lambda path: damage_json(path.parent, format=99)),
        ("plastic.json", lambda path: damage_json(path.parent, active=[[1]])),
        ("plastic.json", lambda path: damage_json(path.parent, mode="so-so")),
        ("plastic.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-100])),
        ("plastic.safetensors", lambda path: path.unlink()),
        ("model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-100])),
        ("config.json", lambda path: path.unlink()),
    ],
)
def test_damaged_folders_are_one_sentence(tmp_path, file, harm):
    save_plastic(lived(), tmp_path / "it")
    harm(tmp_path / "it" / file)
    with pytest.raises(InputError, match="cannot be read: it is damaged, or not a checkpoint"):
        load_plastic(tmp_path / "it")


def test_damaged_and_foreign_files_are_one_sentence(tmp_path):
    save_plastic(lived(), tmp_path / "it.pth")
    whole = (tmp_path / "it.pth").read_bytes()
    (tmp_path / "short.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "empty.pth").write_bytes(b"")
    torch.save({"weight": torch.ones(2)}, tmp_path / "foreign.pth")
    torch.save(torch.ones(2), tmp_path / "tensor.pth")
    torch.save(build("gpt2"), tmp_path / "pickled.pth")
    for name in ("short", "text", "empty", "foreign", "tensor", "pickled"):
        with pytest.raises(InputError, match="cannot be read: it is damaged, or not a checkpoint"):
            load_plastic(tmp_path / f"{name}.pth")


@pytest.mark.parametrize("where", ["folder", "file.pth"])
def test_notes_and_the_state_of_training_stay_beside_the_model(tmp_path, where):
    model, state = lived(), {"taken": 3, "moments": [torch.arange(3.0)], "rates": None}
    save_plastic(model, tmp_path / where, notes={"history": [{"step": "prune", "heads": [[0, 1]]}]}, training=state)
    found = load_checkpoint(tmp_path / where)
    assert same(model, found.loaded.model) == []
    assert found.notes == {"history": [{"step": "prune", "heads": [[0, 1]]}]}
    assert found.training["taken"] == 3
    assert torch.equal(found.training["moments"][0], torch.arange(3.0))
    assert found.training["rates"] is None
    save_plastic(model, tmp_path / where)  # over it: nothing of it is left
    found = load_checkpoint(tmp_path / where)
    assert (found.notes, found.training) == ({}, None)


def test_save_pretrained_with_the_flag_keeps_the_mask_and_without_it_writes_a_stock_folder(tmp_path):
    model = lived()
    logits = model(IDS).logits
    model.save_pretrained(tmp_path / "plastic", plastic=True, name="mine", notes={"why": "test"})
    again = load_checkpoint(tmp_path / "plastic", name="mine")
    assert same(model, again.loaded.model) == []
    assert again.notes == {"why": "test"}
    model.save_pretrained(tmp_path / "stock")
    assert is_checkpoint(tmp_path / "plastic")
    assert not is_checkpoint(tmp_path / "stock")
    for folder in ("plastic", "stock"):
        stock = tf.AutoModelForCausalLM.from_pretrained(tmp_path / folder).eval()
        torch.testing.assert_close(stock(IDS).logits, logits, atol=1e-5, rtol=1e-5)
    with pytest.raises(TypeError, match="safe_serialization"):
        model.save_pretrained(tmp_path / "other", plastic=True, safe_serialization=True)
    assert not (tmp_path / "other").exists()
