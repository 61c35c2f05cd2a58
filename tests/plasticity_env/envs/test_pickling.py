"""Environments go through a pickle, frozen ones and ones that train, into the same process and into another."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from plasticity_env import InputError, RewardRule, Signal, load_model, register_signal
from plasticity_env.envs.rewards import REWARDS
from plasticity_env.repair.registry import REPAIRS
from plasticity_env.signals.signal import SIGNALS
from tests.plasticity_env.envs.playing import go_on_and_start_anew, same

KINDS = ["Heads", "HeadRank", "HeadEdit"]
CASES = [(kind, steps) for kind in KINDS for steps in (0, 2)]


@pytest.fixture
def begun(make_env):
    """An environment in the middle of an episode."""

    def make(kind, train_steps):
        learning = {"train_steps": train_steps, "batch_size": 2, "learning_rate": 3e-3, "calibration_blocks": 2}
        env = make_env(f"plasticity/{kind}-v1", reward_blocks=2, **learning)
        env.reset(seed=7)
        action = np.zeros(16, dtype=np.int64)
        action[:3] = 1
        env.step(5 if kind == "HeadEdit" else action)
        return env

    return make


@pytest.mark.parametrize(("kind", "train_steps"), CASES)
def test_a_pickled_environment_plays_on_as_the_original_does(begun, kind, train_steps):
    env = begun(kind, train_steps)
    again = pickle.loads(pickle.dumps(env))
    assert same(go_on_and_start_anew(again, 1), go_on_and_start_anew(env, 1))


@pytest.mark.slow
def test_another_process_plays_on_as_the_original_does(begun, tmp_path):
    """Its count of changes of weights begins elsewhere: the dense model is not taken for one that trained.

    Slow: the other process imports torch.
    """
    files, wanted = [], []
    for kind, train_steps in CASES:
        env = begun(kind, train_steps)
        files.append(tmp_path / f"{kind}_{train_steps}.pickle")
        files[-1].write_bytes(pickle.dumps(env))
        wanted.append(go_on_and_start_anew(env))
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-m", "tests.plasticity_env.envs.pickled_play", *map(str, files)]
    subprocess.run(command, cwd=Path(__file__).resolve().parents[3], env=environment, check=True, timeout=240)
    for file, trace in zip(files, wanted, strict=True):
        assert same(pickle.loads(file.read_bytes()), trace), file.name


@pytest.mark.parametrize("registry", [SIGNALS, REWARDS, REPAIRS], ids=lambda registry: registry.kind)
def test_registered_records_are_pickled_as_their_names(registry):
    for record in registry.values():
        assert pickle.loads(pickle.dumps(record)) is record
        assert copy.deepcopy(record) is record


def test_a_record_that_its_registry_does_not_hold_is_pickled_whole():
    stranger = RewardRule("kl", np.mean)  # not what is registered as "kl"
    again = pickle.loads(pickle.dumps(stranger))
    assert again == stranger
    assert again is not REWARDS["kl"]


def test_a_name_that_the_loading_process_does_not_know_is_one_sentence(monkeypatch):
    register_signal(Signal("of_mine", lambda seen: seen["fisher"]))
    pickled = pickle.dumps(SIGNALS["of_mine"])
    monkeypatch.delitem(SIGNALS, "of_mine")
    with pytest.raises(InputError, match="unknown signal 'of_mine'"):
        pickle.loads(pickled)


@pytest.mark.parametrize("way", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_knows_that_weights_were_changed_before_it_was_made(way):
    model = load_model("bard-gpt2-4x4").model
    version = model.weight_version
    with torch.no_grad():
        next(model.parameters()).mul_(1.5)
    again = way(model)
    again.notice_changes()
    assert again.weight_version != version
