"""Blocks that are longer than a model's positions are refused before anything runs."""

from __future__ import annotations

import pytest

from plasticity_env import InputError, load_model
from plasticity_env.cycle.grid.grid_plan import GridSetting
from plasticity_env.cycle.grid.grid_run import check_grid
from plasticity_env.model.checkpoints import Checkpoint
from plasticity_env.steps.step_arguments import StepText


def test_blocks_longer_than_the_positions_are_refused():
    loaded = load_model("bard-gpt2-4x4")
    limit = loaded.model.config.max_position_embeddings
    with pytest.raises(InputError, match=f"more than the {limit} positions of 'bard-gpt2-4x4'"):
        StepText(max_length=limit + 1).open(Checkpoint(loaded, {}, None))
    with pytest.raises(InputError, match="positions"):
        check_grid(loaded, None, GridSetting(max_length=limit + 1), [], 1)
