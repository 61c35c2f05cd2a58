"""Moments of texts on disk: read again, by anyone, instead of gathered; damage is noticed."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from plasticity_env import InputError, load_model, load_text
from plasticity_env.signals import dense_moments
from plasticity_env.signals.measure import gather
from plasticity_env.signals.moment_files import MomentFiles

SETTINGS = {"max_length": 32, "calibration_blocks": 2, "moment_blocks": 8, "reward_blocks": 2, "horizon": 2}


@pytest.fixture(scope="module")
def loaded():
    return load_model("bard-gpt2-4x4")


@pytest.fixture(scope="module")
def ids(loaded):
    return load_text("shakespeare", loaded.tokenizer, block_size=32).blocks("calibration")[:6]


def test_what_is_read_is_what_was_written(tmp_path, loaded, ids):
    files, found = MomentFiles(tmp_path / "new", loaded.model), gather(loaded.model, ids).sites
    assert files.get(ids) is None
    files.put(ids, found)
    again = MomentFiles(tmp_path / "new", load_model("bard-gpt2-4x4").model).get(ids)
    assert again is not None
    assert again.keys() == found.keys()
    for site, moments in found.items():
        assert torch.equal(again[site].mean, moments.mean)
        torch.testing.assert_close(again[site].gram, moments.gram)
    assert files.get(ids[:5]) is None
    assert MomentFiles(tmp_path / "new", load_model("bard-llama-4x8").model).get(ids) is None


def test_changed_weights_are_another_text(tmp_path, ids):
    model = load_model("bard-gpt2-4x4").model
    files = MomentFiles(tmp_path, model)
    files.put(ids, gather(model, ids).sites)
    with torch.no_grad():
        next(iter(model.parameters())).mul_(1.5)
    model.weights_changed()
    assert files.get(ids) is None


def test_damage_is_noticed(tmp_path, loaded, ids):
    files = MomentFiles(tmp_path, loaded.model)
    files.put(ids, gather(loaded.model, ids).sites)
    (path,) = tmp_path.glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="its digest differs"):
        files.get(ids)
    path.write_bytes(content[:50])
    with pytest.raises(InputError, match="is damaged"):
        files.get(ids)


def test_environments_read_what_another_one_has_gathered(tmp_path, monkeypatch):
    folder = tmp_path / "moments"

    def play(**settings):
        env = gym.make("plasticity/HeadRank-v1", pruned_share=0.5, **SETTINGS, **settings)
        env.reset(seed=4)
        scores = np.random.default_rng(0).random(env.unwrapped.head_slots, dtype=np.float32)
        return [env.step(scores)[1] for _ in range(2)]

    first = play(moment_cache=str(folder))
    monkeypatch.setattr(dense_moments, "gather_many", lambda *_: pytest.fail("gathered anew"))
    np.testing.assert_allclose(play(moment_cache=str(folder)), first, rtol=1e-5)
    monkeypatch.undo()
    np.testing.assert_allclose(play(), first, rtol=1e-5)
    assert len(list(folder.iterdir())) == 1
    vector = gym.make_vec("plasticity/HeadRank-v1", num_envs=2, pruned_share=0.5, moment_cache=str(folder), **SETTINGS)
    vector.reset(seed=[4, 5])
    assert len(list(folder.iterdir())) == 2
    vector.close()
