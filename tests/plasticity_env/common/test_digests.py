"""What was written is what is read: flipped bits, missing files and names that lead out of a folder are refused."""

from __future__ import annotations

import json

import pytest
import torch

from plasticity_env import InputError, load_model, load_plastic, save_plastic
from plasticity_env.common.digests import MANIFEST, load_archive, plain_name
from plasticity_env.controllers import ANNController


def flip(path, share=0.5):
    """Flip one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[int(len(content) * share)] ^= 0x10
    path.write_bytes(bytes(content))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    loaded = load_model("bard-gpt2-4x4")
    mask = torch.zeros(loaded.model.shape, dtype=torch.bool)
    mask[0, 1] = True
    loaded.model.prune(mask)
    save_plastic(loaded.model, folder / "folder", loaded.tokenizer, loaded.name)
    save_plastic(loaded.model, folder / "file.pth", loaded.tokenizer, loaded.name)
    return folder


def copied(source, target):
    import shutil

    return shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)


@pytest.mark.parametrize("name", ["model.safetensors", "plastic.safetensors", "plastic.json"])
def test_a_flipped_bit_in_a_checkpoint_folder_is_refused(checkpoint, tmp_path, name):
    copied(checkpoint / "folder", tmp_path / "folder")
    flip(tmp_path / "folder" / name)
    with pytest.raises(InputError, match="damaged"):
        load_plastic(tmp_path / "folder")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_flipped_bit_in_a_checkpoint_file_is_refused(checkpoint, tmp_path, share):
    path = tmp_path / "file.pth"
    copied(checkpoint / "file.pth", path)
    assert load_plastic(path).name == "bard-gpt2-4x4"
    flip(path, share)
    with pytest.raises(InputError, match="damaged"):
        load_plastic(path)


def test_a_folder_of_an_earlier_version_is_read_and_said_to_have_no_digests(checkpoint, tmp_path):
    copied(checkpoint / "folder", tmp_path / "folder")
    (tmp_path / "folder" / MANIFEST).unlink()
    with pytest.warns(UserWarning, match="carries no digests"):
        assert not bool(load_plastic(tmp_path / "folder").model.active[0, 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": [[float("nan")] * 4] * 4}, r"scales must lie in \(0, 1\]"),
        ({"active": [[0] * 4] * 4}, "one active head at least"),
        ({"active": [[2] * 4] * 4}, "zeros and ones"),
        ({"active": [[1] * 3] * 4}, r"its mask is \(4, 3\)"),
        ({"warmup": [[[5.0] * 4] * 4, [[1.0] * 4] * 4]}, "warm-ups must be finite"),
    ],
)
def test_values_that_no_model_can_be_in_are_refused(checkpoint, tmp_path, change, message):
    copied(checkpoint / "folder", tmp_path / "folder")
    (tmp_path / "folder" / MANIFEST).unlink()
    path = tmp_path / "folder" / "plastic.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=message):
        load_plastic(tmp_path / "folder")


def test_a_controllers_weights_and_description_carry_digests(tmp_path):
    ANNController().save(tmp_path / "c")
    (tmp_path / "c" / "README.md").write_text("a card that was added")
    ANNController.load(tmp_path / "c")
    for name in ("controller.safetensors", "controller.json"):
        ANNController().save(tmp_path / name)
        flip(tmp_path / name / name)
        with pytest.raises(InputError, match=f"{name}.*is damaged"):
            ANNController.load(tmp_path / name)


def test_an_archive_with_a_flipped_bit_is_refused(tmp_path):
    torch.save({"a": torch.arange(999)}, tmp_path / "state.pt")
    assert load_archive(tmp_path / "state.pt")["a"][-1] == 998
    flip(tmp_path / "state.pt")
    with pytest.raises(InputError, match="damaged"):
        load_archive(tmp_path / "state.pt")


@pytest.mark.parametrize("name", ["x/../../../victim", "..", "", "a/b", "a\\b", None, 3])
def test_names_in_files_are_plain_names(name):
    with pytest.raises(InputError, match="not a plain name"):
        plain_name(name)
    assert plain_name("resume_cycle1-a.b") == "resume_cycle1-a.b"
