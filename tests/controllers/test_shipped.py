"""The controllers that come with the package."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml

from plasticity_env import InputError, controllers
from plasticity_env.common.digests import MANIFEST
from plasticity_env.controllers.ann import CONFIG
from plasticity_env.controllers.shipped import FORMER, LAB
from plasticity_env.envs.observation import HEAD_FEATURES
from tests.conftest import SMALL

ROOT = Path(__file__).parents[2]
FOLDERS = {name: controllers.shipped_folder(name) for name in controllers.shipped()} | {
    n: ROOT / LAB / n for n in FORMER
}


@pytest.mark.parametrize("name", FOLDERS)
def test_every_controller_of_the_repository_is_whole(name):
    folder = FOLDERS[name]
    controller = controllers.load(folder)
    assert set(controller.network.config.head_features) <= set(HEAD_FEATURES)
    assert controller.info.get("models") or controller.info["config"]["model_name"]
    assert controller.info["global_step"] > 0
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "## Limits" in card
    assert all(torch.isfinite(value).all() for value in controller.network.state_dict().values())


def test_recipes_start_from_controllers_that_are_there():
    recipes = [*ROOT.glob(f"{LAB}/recipes/*.yaml"), *ROOT.glob("scripts/configs/ranker*.yaml")]
    assert len(recipes) == 8
    for recipe in recipes:
        start = yaml.safe_load(recipe.read_text(encoding="utf-8")).get("start_from")
        if start is not None:
            controllers.make(start if start.startswith("ann") else str(ROOT / start))


def test_ann_is_the_shipped_controller_unless_one_asks_for_another():
    default = controllers.load(controllers.shipped_folder())
    ann = controllers.make("ann")
    assert ann.info == default.info
    for key, value in default.network.state_dict().items():
        assert torch.equal(ann.network.state_dict()[key], value)
    assert controllers.make(f"ann:{controllers.shipped()[0]}").info == default.info
    assert controllers.make("ann:untrained").info == {}
    with pytest.raises(InputError, match=r"unknown shipped controller 'rankr'.*ranker"):
        controllers.make("ann:rankr")


@pytest.mark.parametrize("env_id", ["Heads-v1", "HeadEdit-v1", "HeadRank-v1"])
def test_it_plays_every_environment(env_id):
    env = gym.make(f"plasticity/{env_id}", **{**SMALL, "horizon": 2})
    controller = controllers.make("ann")
    observation, _ = env.reset(seed=0)
    for _ in range(2):
        action = controller.act(observation)
        assert env.action_space.contains(action)
        observation, *_ = env.step(action)
    if env_id != "HeadEdit-v1":
        assert (~env.unwrapped.model.active).any()


@pytest.mark.parametrize("signal", ["residual", "crossfit"])
def test_an_environment_that_measures_less_is_refused(signal):
    env = gym.make("plasticity/HeadRank-v1", **{**SMALL, f"{signal}_signal": False})
    observation, _ = env.reset(seed=0)
    message = rf"trained on '{signal}_\w+', which the environment does not measure.*{signal}_signal=True"
    with pytest.raises(InputError, match=message):
        controllers.make("ann").act(observation)


def test_features_that_no_observation_has_are_refused(tmp_path):
    controllers.make("ann").save(tmp_path)
    data = json.loads((tmp_path / CONFIG).read_text(encoding="utf-8"))
    data["network"]["head_features"][0] = "fisher_of_old"
    (tmp_path / CONFIG).write_text(json.dumps(data), encoding="utf-8")
    (tmp_path / MANIFEST).unlink()  # by hand, as who edits a file must
    with pytest.raises(InputError, match=rf"{tmp_path}.*lacks: fisher_of_old"):
        controllers.load(tmp_path)


def test_a_share_of_its_own_shows_the_network_what_head_rank_would_show():
    """On Heads it prunes the share that it was given, and sees target and due share as it did in training."""
    heads = gym.make("plasticity/Heads-v1", **{**SMALL, "horizon": 2, "max_sparsity": 1.0})
    rank = gym.make("plasticity/HeadRank-v1", **{**SMALL, "horizon": 2, "max_sparsity": 1.0, "pruned_share": 0.5})
    network = controllers.HeadNetwork(controllers.NetworkConfig(width=8)).eval()
    info = {"price_shares": [[1.0, 0.5], [16.0, 0.5]]}
    ranked = controllers.ANNController(network, sparsity=0.5, rounds=2, info=info)
    free = controllers.ANNController(network, info=info)
    options = {"flop_price": 4.0, "calibration": [0, 1], "reward": [0, 1]}
    seen = [each.reset(seed=1, options=options)[0] for each in (heads, rank)]
    scores = ranked.importance(seen[0]), free.importance(seen[1])
    np.testing.assert_allclose(*scores, atol=1e-5)
