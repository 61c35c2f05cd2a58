"""One table for all tests, as runs of one process share it."""

from __future__ import annotations

import pytest

from plasticity_env.agents.leaderboard.leaderboard_config import LeaderboardConfig
from plasticity_env.agents.leaderboard.playing import Table
from plasticity_env.agents.leaderboard.workers import table_of
from plasticity_env.common.tracking import TrackingOptions
from tests.conftest import filled

TINY = filled(
    LeaderboardConfig,
    players="fisher@4,random@1",
    shares="0.2,0.5",
    seeds=2,
    max_length=32,
    calibration_blocks=3,
    reward_blocks=2,
    test_blocks=4,
    tracking=TrackingOptions(track=True, wandb_mode="offline", tensorboard=False),
)


@pytest.fixture
def table() -> Table:
    return table_of(TINY.rules("bard-gpt2-4x4"))
