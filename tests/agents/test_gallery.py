"""The gallery's maps say what the shipped controllers prune."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plasticity_env import InputError, controllers, make_env
from plasticity_env.agents.evaluation.gallery import PruningMap, gallery_png, pruning_map
from plasticity_env.controllers import shipped_folder
from tests.conftest import SMALL

SETTINGS = {name: SMALL[name] for name in ("max_length", "calibration_blocks", "reward_blocks")}


def test_a_unit_goes_at_the_first_share_whose_mask_lacks_it() -> None:
    shares = (0.25, 0.5, 0.75)
    found = pruning_map("ranker", SMALL["model_name"], shares, seed=1, **SETTINGS)
    env = make_env(
        "plasticity/HeadRank-v1",
        model_name=SMALL["model_name"],
        horizon=1,
        pruned_share=0.5,
        max_sparsity=1.0,
        **SETTINGS,
    )
    controller = controllers.load(shipped_folder("ranker"))
    for share in shares:
        observation, _ = env.reset(seed=1, options={"pruned_share": share})
        controller.reset(1)
        env.step(controller.act(observation))
        assert np.array_equal(found.gone_at <= share, ~env.model.active.numpy())
        assert (found.gone_at <= share).sum() == round(16 * share)
    assert np.isnan(found.gone_at).sum() == 4


def test_maps_become_one_picture(tmp_path: Path) -> None:
    maps = [
        PruningMap("ranker", "toy", np.array([[0.1, np.nan], [0.5, 0.9]]), 2),
        PruningMap("units", "toy", np.array([[0.1, 0.2, np.nan], [0.5, 0.9, 0.3]]), 2),
    ]
    gallery_png(maps, tmp_path / "gallery.png")
    width, height = Image.open(tmp_path / "gallery.png").size
    assert 2 * width > height > 200  # one below the other
    assert width < 1000


def test_what_does_not_ship_has_no_map() -> None:
    with pytest.raises(InputError, match="unknown shipped controller 'rankr'"):
        pruning_map("rankr", SMALL["model_name"])
